# SPDX-License-Identifier: MIT
"""Certificates good and bad, made with the openssl program: an authority for tests."""
import datetime
import itertools
from pathlib import Path

from .process import run

_numbers = itertools.count(1)

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
default_crl_days = 30
policy = any
unique_subject = no
email_in_dn = no
[any]
commonName = supplied
"""


class Pair:
    """A certificate (with its chain) and its key, as files."""

    def __init__(self, cert, key):
        self.cert, self.key = cert, key

    def config(self):
        return {"cert": str(self.cert), "key": str(self.key)}


def new_key(path, kind="ec"):
    options = {"ec": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
               "rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ed25519": ["ED25519"]}[kind]
    run("openssl", "genpkey", "-algorithm", *options, "-out", path)
    return path


class Authority:
    def __init__(self, folder, name="test authority"):
        self.folder = Path(folder) / f"authority{next(_numbers)}"
        self.folder.mkdir()
        self.cert, self.key = self.folder / "ca.pem", self.folder / "ca.key"
        (self.folder / "index.txt").touch()
        self.config_file = self.folder / "ca.cnf"
        self.config_file.write_text(_CONFIG.format(folder=self.folder))
        new_key(self.key)
        run("openssl", "req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days",
            3650, "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.cert)

    def issue(self, *names, cn=None, kind="ec", start=None, end=None, usage="serverAuth",
              more=""):
        """
        For <names>, host names or IP addresses; <start>, <end> as YYYYMMDDHHMMSSZ; <more>: a line
        of extensions.
        """
        number = next(_numbers)
        cert, key, request, extensions = (self.folder / f"{number}.{suffix}"
                                          for suffix in ("pem", "key", "csr", "ext"))
        new_key(key, kind)
        run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={cn or (names or ('x',))[0]}",
            "-out", request)
        text = f"basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\n{more}\n"
        if names:
            text += "subjectAltName=" + ",".join(
                ("IP:" if n.replace(".", "").isdigit() or ":" in n else "DNS:") + n for n in names)
        extensions.write_text(text + "\n")
        times = [*(["-startdate", start] if start else []),
                 *(["-enddate", end] if end else ["-days", 30])]
        run("openssl", "ca", "-batch", "-notext", "-config", self.config_file, "-keyfile", self.key,
            "-cert", self.cert, "-in", request, "-extfile", extensions, "-out", cert, *times)
        return Pair(cert, key)

    def revoke(self, pair):
        run("openssl", "ca", "-config", self.config_file, "-keyfile", self.key, "-cert", self.cert,
            "-revoke", pair.cert)

    def crl(self):
        """The list of what has been revoked so far: a new file each time."""
        path = self.folder / f"{next(_numbers)}.crl"
        run("openssl", "ca", "-config", self.config_file, "-keyfile", self.key, "-cert", self.cert,
            "-gencrl", "-out", path)
        return path

    def ocsp(self, pair, hours=1, status="GOOD", since=2):
        """
        What it says of <pair>, from <since> hours ago on, for so many <hours> from now, None: for
        ever. A new file.
        """
        # Here: nobody else needs the package.
        from cryptography import x509  # pylint: disable=import-outside-toplevel
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.x509 import ocsp
        now = datetime.datetime.utcnow()
        own = x509.load_pem_x509_certificate(self.cert.read_bytes())
        cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        revoked = now - datetime.timedelta(hours=since) if status == "REVOKED" else None
        response = ocsp.OCSPResponseBuilder().add_response(
            cert, own, hashes.SHA1(), getattr(ocsp.OCSPCertStatus, status),
            now - datetime.timedelta(hours=since),
            now + datetime.timedelta(hours=hours) if hours is not None else None, revoked,
            None).responder_id(ocsp.OCSPResponderEncoding.HASH, own).sign(key, hashes.SHA256())
        path = self.folder / f"{next(_numbers)}.ocsp"
        path.write_bytes(response.public_bytes(serialization.Encoding.DER))
        return path
