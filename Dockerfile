# The release binary on a base with glibc and CA certificates, and nothing else; not root.
#
#   make build && mkdir -p out/amd64 && cp out/chancery out/amd64/ && docker build --platform linux/amd64 -t chancery .
#   docker run -p 18000:18000 -v chancery-state:/home/nonroot chancery serve --etcd http://10.0.0.1:2379
#
# The base has glibc 2.36: build the binary on Debian 12 or something older.
FROM gcr.io/distroless/cc-debian12:nonroot

ARG TARGETARCH
COPY --chmod=0755 out/${TARGETARCH}/chancery /usr/bin/chancery

# The folder belongs to the user `nonroot`, so a named volume that is mounted here does, too.
WORKDIR /home/nonroot
ENV CHANCERY_STATE_DIR=/home/nonroot/state

EXPOSE 18000 18001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/chancery"]
CMD ["serve"]
