# docker build --tag heartbeat .
# With both runtimes: --target node or --target deno. Without it, the one that the last line names.

ARG DENO_VERSION=2.9.6
ARG NODE_VERSION=26.10.0

# WORKDIR stands before USER: /app is root's, so that the service cannot change its own files.
FROM scratch AS base
WORKDIR /app
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM

# ════════ Node.js ════════

# The service as JavaScript, in parts, because the probe then loads no server.
# Its packages stay outside. esbuild comes with tsx.
# Made on the platform of the machine that builds.
FROM --platform=$BUILDPLATFORM node:${NODE_VERSION}-trixie-slim AS node-bundle
WORKDIR /build
COPY package*.json .npmrc* ./
RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=npmrc,target=/root/.npmrc \
    npm ci --omit=dev --ignore-scripts
COPY . .
RUN node_modules/.bin/esbuild main.ts --bundle --packages=external --platform=node --format=esm \
      --splitting --minify --sourcemap --sources-content=false --log-level=warning --outdir=bundle
RUN echo '{"type":"module"}' >bundle/package.json
# Every user can read it, whatever umask the checkout was made with.
RUN mkdir -p static && mv static bundle/ && chmod -R u=rwX,go=rX bundle

# The rest of the file system: packages, the runtime, an init, their libraries, certificates, a
# user, and a place for a volume that any user can write.
# Made on the platform that the image is for.
FROM node:${NODE_VERSION}-trixie-slim AS node-files
# A package that compiles when it is installed needs g++, make and python3 here, too.
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
      binutils ca-certificates tini >/dev/null
WORKDIR /files/app
COPY package*.json .npmrc* ./
RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=npmrc,target=/root/.npmrc \
    npm ci --omit=dev && npm uninstall --no-save --omit=dev tsx
RUN rm -rf package*.json .npmrc* node_modules/.package-lock.json
RUN install -D --strip "$(command -v node)" /files/bin/node \
 && install /usr/bin/tini /files/bin/tini
# A package may hold parts for other platforms, on which ldd fails.
RUN find /files/bin /files/app -type f \
      \( -path '/files/bin/*' -o -name '*.node' -o -name '*.so' -o -name '*.so.[0-9]*' \) \
      -exec ldd {} ';' >/tmp/needed \
 && grep -oE '\s/(usr/)?lib\S*' /tmp/needed | sort -u | xargs cp --parents --dereference -t /files
RUN cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'app:x:65532:65532::/:/' >/files/etc/passwd \
 && install -d -m 1777 /files/data \
 && ln -s /data /files/app/data

FROM base AS node
COPY --from=node-files /files /
COPY --from=node-bundle /build/bundle /app
ENTRYPOINT ["/bin/tini", "-s", "-e", "143", "--", \
  "/bin/node", "--enable-source-maps", "/app/main.js"]
# Podman before 5.5 takes missing retries for none: the first failure would be unhealthy.
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s --retries=3 \
  CMD ["/bin/node", "/app/main.js", "--ping"]

# ════════ Deno ════════

# The service and its packages as JavaScript, in parts, because the probe then loads no server.
# The source maps are read when a line of the log names a place.
# Made on the platform of the machine that builds.
FROM --platform=$BUILDPLATFORM denoland/deno:${DENO_VERSION} AS deno-bundle
ENV NO_COLOR=1
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/deno-dir --mount=type=secret,id=npmrc,target=/root/.npmrc \
    deno bundle --quiet --frozen --minify --code-splitting --sourcemap=linked \
      --outdir=bundle main.ts \
 || { echo 'Lockfile out of date? npm run dependencies (on Deno alone: deno install).' \
      'Module not found? Native parts need --target node, a private registry --secret.' >&2; \
      exit 1; }
# Every user can read it, whatever umask the checkout was made with.
RUN mkdir -p static && mv static deno.json bundle/ && chmod -R u=rwX,go=rX bundle

# The rest of the file system, as for Node.js.
FROM denoland/deno:${DENO_VERSION} AS deno-files
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
      ca-certificates tini >/dev/null
RUN install -D "$(command -v deno)" /files/bin/deno \
 && install /usr/bin/tini /files/bin/tini
RUN ldd /files/bin/* >/tmp/needed \
 && grep -oE '\s/(usr/)?lib\S*' /tmp/needed | sort -u | xargs cp --parents --dereference -t /files
RUN cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'app:x:65532:65532::/:/' >/files/etc/passwd \
 && install -d -m 1777 /files/data \
 && mkdir /files/app && ln -s /data /files/app/data

FROM base AS deno
# The update check would double the cost of a probe. With telemetry on, a stop waits three times
# this long for a collector that hangs: 10 s, the default, would outlast the grace period.
ENV DENO_NO_UPDATE_CHECK=1 NO_COLOR=1 OTEL_EXPORTER_OTLP_TIMEOUT=300
COPY --from=deno-files /files /
COPY --from=deno-bundle /build/bundle /app
# The service may do what deno.json allows. The semi-space is small, because with the log on V8's
# default takes twice the memory.
ENTRYPOINT ["/bin/tini", "-s", "-e", "143", "--", \
  "/bin/deno", "run", "-q", "-P", "--config", "/app/deno.json", "--no-lock", "--no-prompt", \
  "--no-npm", "--no-remote", "--no-code-cache", "--v8-flags=--max-semi-space-size=2", \
  "/app/main.js"]
# The probe has permissions of its own. The retries are written out because of Podman, see above.
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s --retries=3 \
  CMD ["/bin/deno", "run", "--no-prompt", "--no-config", "--no-npm", "--no-remote", \
  "--no-code-cache", "--allow-all", "/app/main.js", "--ping"]

FROM deno
