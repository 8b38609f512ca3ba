# The stock notebook image: a plain pip install, run by an ordinary user.
ARG BASE
FROM ${BASE}
RUN python3 -m venv /opt/notebook \
    && /opt/notebook/bin/pip install --no-cache-dir jupyterhub==6.1.1 jupyterlab
RUN echo jovyan:x:1000:1000::/home/jovyan:/bin/bash >> /etc/passwd \
    && echo jovyan:x:1000: >> /etc/group \
    && install -d -o jovyan -g jovyan /home/jovyan /home/jovyan/work
ENV PATH=/opt/notebook/bin:$PATH
USER jovyan
WORKDIR /home/jovyan
CMD ["jupyterhub-singleuser"]
