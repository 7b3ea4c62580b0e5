# serkit serve in a container: the packaged model, no PyTorch, nothing fetched at run time.
#   docker build -t serkit . && docker run --rm -p 127.0.0.1:8000:8000 serkit
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/serkit \
 && /opt/serkit/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve]'

FROM python:3.11-slim
RUN useradd --system --no-create-home serkit
COPY --from=build /opt/serkit /opt/serkit
USER serkit
ENV PATH=/opt/serkit/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
# SIGTERM lets requests under way end; give it longer than --grace.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["serkit", "serve", "--host", "0.0.0.0", "--port", "8000"]
