# On Deno:     docker build -t app .
# On Node.js:  docker build -t app --target node .
ARG DENO_VERSION=2.9.6
ARG NODE_VERSION=26.10.0

# The service as JavaScript, in parts: the probe loads no server, and Deno not the adapter of Node.js. With source maps,
# which are read when a line of the log names a place; the probe never does.
# On the machine that builds, whatever platform the image is for.
FROM --platform=$BUILDPLATFORM denoland/deno:${DENO_VERSION} AS bundle
WORKDIR /build
COPY . .
# Fails where a package is not the one that deno.lock names. A development tool that it does not know must not stop a
# build: then it is tried without them.
RUN --mount=type=cache,target=/deno-dir export DENO_DIR=/deno-dir \
 && if ! deno install --quiet --frozen 2>/dev/null; then \
      deno eval --no-config --no-lock 'const { devDependencies, ...rest } = JSON.parse(Deno.readTextFileSync("package.json")); \
        Deno.writeTextFileSync("package.json", JSON.stringify(rest));' \
      && deno install --quiet --frozen; \
    fi \
 && deno bundle --quiet --frozen --minify --code-splitting --sourcemap=linked --outdir=bundle main.ts \
 && mkdir -p static && mv static bundle/

# What stands in the file system beside the bundle: the runtime, an init, their libraries, certificates, one user, and a
# place for a volume that any user can write.
FROM denoland/deno:${DENO_VERSION} AS deno-files
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends ca-certificates tini >/dev/null
RUN install -D "$(command -v deno)" /files/bin/deno \
 && install /usr/bin/tini /files/bin/tini \
 && cp --parents --dereference $(ldd /files/bin/* | grep -o '/[^ ]* ') /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'app:x:65532:65532::/:/' >/files/etc/passwd \
 && install -d -m 1777 /files/data

FROM node:${NODE_VERSION}-trixie-slim AS node-files
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends binutils ca-certificates tini >/dev/null
RUN install -D --strip "$(command -v node)" /files/bin/node \
 && install /usr/bin/tini /files/bin/tini \
 && cp --parents --dereference $(ldd /files/bin/* | grep -o '/[^ ]* ') /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'app:x:65532:65532::/:/' >/files/etc/passwd \
 && install -d -m 1777 /files/data && mkdir /files/app && echo '{"type":"module"}' >/files/app/package.json

FROM scratch AS base
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM

FROM base AS node
COPY --from=node-files /files /
COPY --from=bundle /build/bundle /app
ENTRYPOINT ["/bin/tini", "-s", "-e", "143", "--", "/bin/node", "--enable-source-maps", "/app/main.js"]
# Podman before 5.5 takes missing retries for none: the first failure would be unhealthy.
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s --retries=3 \
  CMD ["/bin/node", "/app/main.js", "--ping"]

FROM base AS deno
# The update check would double the cost of a probe. With telemetry on, a stop waits three times this long for a
# collector that hangs: 10 s, the default, would outlast the grace period.
ENV DENO_NO_UPDATE_CHECK=1 NO_COLOR=1 OTEL_EXPORTER_OTLP_TIMEOUT=300
COPY --from=deno-files /files /
COPY --from=bundle /build/bundle /app
# Its own addresses and static files are all that it may use, on any PORT. What your routes reach is added here. The
# semi-space is small, because with the log on V8's default takes twice the memory.
ENTRYPOINT ["/bin/tini", "-s", "-e", "143", "--", \
  "/bin/deno", "run", "--no-prompt", "--no-config", "--no-npm", "--no-remote", "--no-code-cache", \
  "--unstable-no-legacy-abort", "--v8-flags=--max-semi-space-size=2", \
  "--allow-env", "--allow-read=/app/static", "--allow-net=0.0.0.0,127.0.0.1,[::],[::1],localhost", "/app/main.js"]
# The probe's own, whatever the service may do. The retries are written out because of Podman, see above.
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s --retries=3 \
  CMD ["/bin/deno", "run", "--no-prompt", "--no-config", "--no-npm", "--no-remote", "--no-code-cache", \
  "--allow-all", "/app/main.js", "--ping"]
