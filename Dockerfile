# docker build -t glance-resolver .
#
# The build fetches two things: the base image and Python packages. To use mirrors:
#   docker build --build-arg PYTHON_IMAGE=… --build-arg PIP_INDEX_URL=… -t glance-resolver .
# A mirror with a private certificate needs a base image that trusts it (for pip: PIP_CERT).

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build

# pip reads these from its environment. The final image does not contain them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
RUN python -m venv --without-pip /opt/resolver

# Dependencies first, so that a change of the source does not fetch them again. There is no compiler
# here, so a package without a wheel for this platform fails at once.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(d for e in ('memory', 'workers', 'events', 'keystone', 'otel') for d in p['optional-dependencies'][e]), sep='\n')" > /tmp/requirements.txt \
 && python -m pip --python /opt/resolver/bin/python install --only-binary :all: -r /tmp/requirements.txt

COPY README.md LICENSE ./
COPY resolver ./resolver
RUN python -m pip wheel --no-deps --wheel-dir /tmp/wheels . \
 && python -m pip --python /opt/resolver/bin/python install --no-deps --no-index /tmp/wheels/*.whl


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

# Last, because they change with every build: --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD)
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="glance-resolver" \
      org.opencontainers.image.description="Finds the OpenStack Glance server that has an image UUID, and redirects to it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
