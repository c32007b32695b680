# heartbeat on Deno:    docker build -t heartbeat .
# the same on Node.js:  docker build -t heartbeat --target node .
ARG DENO_VERSION=2.9.6
ARG NODE_VERSION=26.10.0

# main.ts as JavaScript, in parts: the probe loads no server, and Deno not the adapter of Node.js.
FROM denoland/deno:${DENO_VERSION} AS bundle
WORKDIR /build
COPY deno.json deno.lock package.json ./
# Brings in what the lock file names; a change in main.ts alone does not repeat it.
RUN echo 'import "hono"; import "@hono/node-server";' >packages.ts \
 && deno bundle --quiet --frozen --output=/dev/null packages.ts
COPY main.ts ./
RUN deno bundle --quiet --frozen --minify --code-splitting --outdir=bundle main.ts

# What stands in the file system beside the bundle: the runtime, its libraries, certificates, one user.
FROM denoland/deno:${DENO_VERSION} AS deno-files
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends ca-certificates >/dev/null
RUN install -D "$(command -v deno)" /files/bin/deno \
 && cp --parents --dereference $(ldd /files/bin/deno | grep -o '/[^ ]*') /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'heartbeat:x:65532:65532::/:/' >/files/etc/passwd

FROM node:${NODE_VERSION}-trixie-slim AS node-files
RUN apt-get -qq update \
 && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends binutils ca-certificates >/dev/null
RUN install -D --strip "$(command -v node)" /files/bin/node \
 && cp --parents --dereference $(ldd /files/bin/node | grep -o '/[^ ]*') /etc/ssl/certs/ca-certificates.crt /files \
 && echo 'heartbeat:x:65532:65532::/:/' >/files/etc/passwd

FROM scratch AS base
ARG VERSION=1.0.0
ARG SOURCE=https://github.com/your-team/heartbeat
LABEL org.opencontainers.image.title="heartbeat" \
      org.opencontainers.image.description="An HTTP service that serves, proves its own health and stops well" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM

FROM base AS node
COPY --from=node-files /files /
COPY --from=bundle /build/bundle /heartbeat
ENTRYPOINT ["/bin/node", "/heartbeat/main.js"]
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s \
  CMD ["/bin/node", "/heartbeat/main.js", "--ping"]

FROM base AS deno
# The update check would double the cost of a probe.
ENV DENO_NO_UPDATE_CHECK=1
COPY --from=deno-files /files /
COPY --from=bundle /build/bundle /heartbeat
# Its own variables and addresses are all that it may use, on any PORT. What your routes reach is added to both lines.
ENTRYPOINT ["/bin/deno", "run", "--no-prompt", "--no-config", "--no-npm", "--no-remote", "--no-code-cache", \
  "--allow-env=PORT,HOST,PING_TIMEOUT_MS,DRAIN_DELAY_MS,SHUTDOWN_TIMEOUT_MS,ACCESS_LOG", \
  "--allow-net=0.0.0.0,127.0.0.1,[::],[::1],localhost", "/heartbeat/main.js"]
HEALTHCHECK --start-period=2s --start-interval=1s --interval=10s --timeout=5s \
  CMD ["/bin/deno", "run", "--no-prompt", "--no-config", "--no-npm", "--no-remote", "--no-code-cache", \
  "--allow-env=PORT,HOST,PING_TIMEOUT_MS,DRAIN_DELAY_MS,SHUTDOWN_TIMEOUT_MS,ACCESS_LOG", \
  "--allow-net=0.0.0.0,127.0.0.1,[::],[::1],localhost", "/heartbeat/main.js", "--ping"]
