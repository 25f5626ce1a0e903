# SPDX-License-Identifier: MIT
"""
Programs that people use TLS with, through termination and through passthrough: HTTP/2 with h2load
and curl, PostgreSQL with psql. (curl and s_client with HTTP/1.1: test_tls.py.)
"""
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from lbtest.daemon import rule
from lbtest.net import BACKEND, BACKEND_ADDR, CLIENT, LB_ADDR
from lbtest.process import run, wait_until
from lbtest.tls_rule import ca, pair  # fixtures

LISTEN, BACK = 6980, 7980
PASSED, TERMINATED = LISTEN, LISTEN + 1

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log; events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  ssl_certificate {cert}; ssl_certificate_key {key};
  server {{
    listen {addr}:{sealed} ssl http2; listen {addr}:{plain} http2;
    location / {{ return 200 "$server_protocol\\n"; }}
  }}
}}
"""


def listens(net, process, port):
    def there():
        assert process.alive(), process.stderr
        with contextlib.suppress(OSError):
            net.call(BACKEND,
                     lambda: socket.create_connection((BACKEND_ADDR[4], port), 1)).close()
            return True
    wait_until(there, 10, f"{process.name} listens")


@pytest.fixture
def nginx(net, folder, pair):
    """HTTP/2, on BACK over TLS, on BACK + 1 in clear."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, addr=BACKEND_ADDR[4], sealed=BACK,
                                   plain=BACK + 1, cert=pair.cert, key=pair.key))
    process = net.start(BACKEND, "nginx", ["nginx", "-c", str(config)], folder)
    listens(net, process, BACK + 1)
    yield process
    process.kill()


@pytest.fixture
def start(daemon, pair):
    """Two rules: what comes on PASSED passes as it is, TERMINATED speaks TLS."""
    def make():
        at, to = LB_ADDR[4], BACKEND_ADDR[4]
        return daemon({"workers": 2, "rules": [
            rule("passed", f"{at}:{PASSED}", [f"{to}:{BACK}"]),
            rule("terminated", f"{at}:{TERMINATED}", [f"{to}:{BACK + 1}"],
                 tls={"enabled": True, "alpn": ["h2", "http/1.1"], **pair.config()}),
        ]}).start()
    return make


WAYS = pytest.mark.parametrize("port", [PASSED, TERMINATED], ids=["passthrough", "termination"])


@WAYS
def test_h2load_is_content(net, start, nginx, port):
    if not shutil.which("h2load"):
        pytest.skip("h2load is not installed (Debian package nghttp2-client)")
    d = start()
    done = run(*net.inside(CLIENT), "h2load", "-n", 2000, "-c", 8, "-m", 16,
               f"https://{LB_ADDR[4]}:{port}/")
    assert "Application protocol: h2" in done.stdout, done.stdout
    assert re.search(r"^requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, "
                     r"0 errored, 0 timeout", done.stdout, re.M), done.stdout
    flows = d.wait_flows(8)
    assert {f["reason"] for f in flows} == {"done"}, flows
    assert all(int(f["down"]) > 2000 / 8 * len("HTTP/2.0\n") for f in flows), flows
    d.check_idle()
    d.stop()


@WAYS
def test_curl_speaks_http_2(net, start, nginx, ca, port):
    d = start()
    done = run(*net.inside(CLIENT), "curl", "-sS", "--http2", "--max-time", 5, "--cacert", ca.cert,
               "--connect-to", f"app.example:443:{LB_ADDR[4]}:{port}", "https://app.example/")
    assert done.stdout == "HTTP/2.0\n"
    # It goes without a close_notify.
    assert d.wait_flows(1)[0]["reason"] == ("done" if port == PASSED else "tls_truncated")
    d.stop()


# --- PostgreSQL: TLS begins only after some words in clear --------------------------------------

# It refuses to be root, and whoever it is then may not look into pytest's folders.
NOBODY = pwd.getpwnam("nobody")
SETTINGS = {"listen_addresses": BACKEND_ADDR[4], "port": BACK, "unix_socket_directories": "",
            "ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key",
            "fsync": "off", "max_connections": 10, "shared_buffers": "1MB",
            "logging_collector": "off"}


def as_nobody(*command):
    return ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups",
            "--pdeathsig", "KILL", *map(str, command)]


@pytest.fixture
def postgres(net, folder, pair):
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found or not shutil.which("psql"):
        pytest.skip("postgresql is not installed")
    home = Path(tempfile.mkdtemp(prefix="lbtest-postgres-"))
    process = None
    try:
        os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
        data = home / "data"
        run(*as_nobody(found[-1].parent / "initdb", "-D", data, "-A", "trust", "-U", "tester", "-N",
                       "--no-locale", "-E", "UTF8"), seconds=60)
        for name, source in (("server.pem", pair.cert), ("server.key", pair.key)):
            shutil.copy(source, data / name)
            os.chown(data / name, NOBODY.pw_uid, NOBODY.pw_gid)
            (data / name).chmod(0o600)
        (data / "pg_hba.conf").write_text("hostssl all all all trust\n")
        options = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
        process = net.start(BACKEND, "postgres", as_nobody(found[-1], "-D", data, *options), folder)
        listens(net, process, BACK)
        yield process
    finally:
        if process:
            # The fast way down; killed, it would leave shared memory behind.
            process.signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                process.wait(10)
            process.kill()
        shutil.rmtree(home)


def test_psql_is_content(net, start, postgres, ca):
    d = start()
    asked = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid(); " \
            "select sum(length(repeat(md5(n::text), 100))) from generate_series(1, 5000) n"
    for mode in ("require", "verify-full"):
        done = run(*net.inside(CLIENT), "psql", "-XAtc", asked,
                   f"host=app.example hostaddr={LB_ADDR[4]} port={PASSED} dbname=postgres "
                   f"user=tester connect_timeout=5 sslmode={mode} sslrootcert={ca.cert}")
        assert done.stdout == "t|TLSv1.3\n16000000\n"
    refused = run(*net.inside(CLIENT), "psql", "-XAtc", "select 1",
                  f"host={LB_ADDR[4]} port={PASSED} dbname=postgres user=tester sslmode=disable",
                  check=False)
    assert "no encryption" in refused.stderr, "it is TLS that got the others in"
    # It says goodbye and goes, with whatever the server still says unread.
    assert {f["reason"] for f in d.wait_flows(3)} <= {"done", "reset_by_client",
                                                      "reset_by_backend"}
    d.stop()
