# Everything that `make book` and `make test` need. To read the book on http://localhost:8000:
#   docker build -t gloro-lite . && docker run --rm -p 8000:8000 gloro-lite
FROM python:3.12-slim-bookworm AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends chromium git make nodejs npm \
    && rm -rf /var/lib/apt/lists/*
# PyTorch's CPU build, of a tenth of the size.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM tools
WORKDIR /gloro-lite
COPY . .
RUN make setup
CMD ["make", "serve"]
