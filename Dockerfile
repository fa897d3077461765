# syntax=docker/dockerfile:1
# A server on 0.0.0.0:8080 as user 65532, with no shell and nothing to install:
#   docker build -t espalier --build-arg REVISION=$(git rev-parse HEAD) .
#   docker run -p 8080:8080 -v models:/models espalier
# Settings are flags behind `serve`, or variables ESPALIER_*; the port and the host
# must be variables (ESPALIER_PORT, ESPALIER_HOST), or HEALTHCHECK asks elsewhere.
# Models of the Hugging Face hub are kept in /models; the root file system may be
# read-only.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
# Dependencies alone, so that this layer lasts until they change.
COPY Cargo.toml Cargo.lock ./
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    mkdir src \
    && echo '//! Stands in for the library.' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --release --lib --bins \
    && rm -r src
COPY models models
COPY src src
# What /version names; below the dependencies, which it would build anew.
ARG REVISION
# The stand-ins are newer than the sources that were copied; touching makes
# cargo look again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch src/lib.rs src/main.rs \
    && ESPALIER_GIT="${REVISION}" cargo build --locked --release --bin espalier \
    && strip target/release/espalier \
    && install -d /image/models \
    && install -D target/release/espalier /image/usr/local/bin/espalier
COPY LICENSE-APACHE LICENSE-MIT /image/usr/share/doc/espalier/

# glibc, libgcc and CA certificates, which is all that the binary links or reads.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="espalier" \
      org.opencontainers.image.description="An OpenAI-compatible inference server that spends exactly the compute a request asks for" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build --chown=65532:65532 /image/models /models
COPY --from=build /image/usr /usr
ENV ESPALIER_HOST=0.0.0.0 \
    ESPALIER_LOG_FORMAT=json \
    HF_HOME=/models
USER 65532:65532
VOLUME /models
EXPOSE 8080
STOPSIGNAL SIGTERM
# A large model takes a while to load; `healthcheck` asks /health on the port
# that the variables and the file of settings name: the flags of `serve` are
# another process's.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/usr/local/bin/espalier", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/espalier"]
CMD ["serve"]
