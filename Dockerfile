# docker build -t glance-resolver .
#
# Two things are fetched: the base image and Python packages. Behind a mirror, name yours:
#   docker build --build-arg PYTHON_IMAGE=… --build-arg PIP_INDEX_URL=… -t glance-resolver .
# A mirror with a certificate of your own needs a base image that trusts it (for pip: PIP_CERT).

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build

# pip reads these from its environment. They stay in this stage, so no image shows them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
RUN python -m venv --without-pip /opt/resolver

# Dependencies first: a change of the source does not fetch them again. There is no compiler
# here, so a package that has no wheel for this platform is an error at once.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(d for e in ('events', 'keystone') for d in p['optional-dependencies'][e]), sep='\n')" > /tmp/requirements.txt \
 && python -m pip --python /opt/resolver/bin/python install --only-binary :all: -r /tmp/requirements.txt

COPY README.md LICENSE ./
COPY resolver ./resolver
RUN python -m pip wheel --no-deps --wheel-dir /tmp/wheels . \
 && python -m pip --python /opt/resolver/bin/python install --no-deps --no-index /tmp/wheels/*.whl


FROM ${PYTHON_IMAGE}

ENV PATH=/opt/resolver/bin:$PATH PYTHONUNBUFFERED=1

COPY --from=build /opt/resolver /opt/resolver

# The base image has no bytecode of the standard library, and the user below cannot write any.
# This keeps what the server and the health check import, and proves that they do.
RUN python -c "import urllib.request, resolver.cli.serve_command, resolver.gateway.server, resolver.registry.yaml_file" \
 && glance-resolver --version

ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 9393

# No proxy that the environment names: this asks the process beside it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as u; s = 's' * bool(os.environ.get('RESOLVER_TLS_CERT')); u.build_opener(u.ProxyHandler({}), u.HTTPSHandler(context=ssl._create_unverified_context())).open(f'http{s}://127.0.0.1:' + os.environ.get('RESOLVER_PORT', '9393') + '/livez', timeout=3)"]

ENTRYPOINT ["glance-resolver"]
CMD ["serve", "--host", "0.0.0.0"]

# Last, as they change with every build: --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD)
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="glance-resolver" \
      org.opencontainers.image.description="Tells which OpenStack Glance server has an image UUID, and redirects to it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
