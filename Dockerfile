# docker build -t glance-resolver .
#
# The build fetches two things: the base image, and the Python packages of requirements/, each with its
# version and hashes (`make lock` renews them). For a base image that cannot change either, name it by
# its digest. To use mirrors, name those:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:… \
#       --build-arg PIP_INDEX_URL=… -t glance-resolver .
# A mirror with a private certificate needs a base image that trusts it (for pip: PIP_CERT).
#
# /opt/resolver/sbom.cdx.json lists the Python packages of the image (CycloneDX).

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build

# pip reads these from its environment. The final image does not contain them. There is no compiler
# here, so a package without a wheel for this platform fails at once.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all:

WORKDIR /src
RUN python -m venv --without-pip /opt/resolver \
 && python -m venv --without-pip /opt/build

# Dependencies first, so that a change of the source does not fetch them again.
COPY requirements/image.txt requirements/build.txt requirements/
RUN python -m pip --python /opt/resolver/bin/python install -r requirements/image.txt \
 && python -m pip --python /opt/build/bin/python install -r requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY resolver ./resolver
# The wheel was made here, so nobody knows its hash.
RUN /opt/build/bin/hatchling build --target wheel --directory /tmp/wheels \
 && PIP_REQUIRE_HASHES=0 python -m pip --python /opt/resolver/bin/python install --no-deps --no-index /tmp/wheels/*.whl \
 && /opt/build/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
        --output-reproducible --validate --output-file /opt/resolver/sbom.cdx.json /opt/resolver/bin/python


FROM ${PYTHON_IMAGE}

# XDG_RUNTIME_DIR: where `serve --port` writes its URL for the health check below.
ENV PATH=/opt/resolver/bin:$PATH PYTHONUNBUFFERED=1 XDG_RUNTIME_DIR=/tmp

COPY --from=build /opt/resolver /opt/resolver

# The base image has no bytecode of the standard library, and the user below cannot write any.
# This compiles what the server and the health check import, and shows that they can import it.
RUN python -c "import resolver.cli.healthcheck_command, resolver.cli.serve_command, resolver.gateway.net.workers, resolver.registry.yaml_file" \
 && glance-resolver --version

ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 9393

# Asks /healthcheck where `serve` listens: by the environment, the file of RESOLVER_CONFIG, or the
# options of `docker run glance-resolver serve --port …`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["glance-resolver", "healthcheck"]

ENTRYPOINT ["glance-resolver"]
CMD ["serve", "--host", "0.0.0.0"]

# Last, because they change with every build: --build-arg REVISION=$(git rev-parse HEAD)
ARG PYTHON_IMAGE
ARG VERSION=0.2.0.dev0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="glance-resolver" \
      org.opencontainers.image.description="Finds the OpenStack Glance server that has an image UUID, and redirects to it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
