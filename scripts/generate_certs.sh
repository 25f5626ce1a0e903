#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Makes certificates to try TLS with: an authority of your own, a server's and a client's signed by
# it. All keys are ECDSA P-256, readable by their owner only. Not for production: the authority's
# key lies beside the rest.
#
# It must never overwrite a file: an authority that is there signs again, a pair that is there
# stays.
set -euo pipefail
umask 077

usage()
{
	cat <<-END
	usage: scripts/generate_certs.sh [-o DIR] [-d DAYS] [NAME...]
	Writes into DIR (certs):
	  ca.pem, ca.key          the authority
	  server.pem, server.key  valid for every NAME: host names, *.names, addresses
	                          (localhost 127.0.0.1 ::1); server.pem holds the chain
	  client.pem, client.key  a client's, CN=client
	Certificates are valid for DAYS (365), the authority ten times as long.
	END
}

dir=certs
days=365
while getopts o:d:h opt; do
	case $opt in
	o) dir=$OPTARG ;;
	d) days=$OPTARG ;;
	h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
names=("$@")
((${#names[@]})) || names=(localhost 127.0.0.1 ::1)
if [[ ! $days =~ ^[1-9][0-9]{0,4}$ ]]; then
	echo "generate_certs: -d takes days, not '$days'" >&2
	exit 2
fi

san=
for name in "${names[@]}"; do
	if [[ $name == *:* || $name =~ ^[0-9.]+$ ]]; then
		san+=,IP:$name
	elif [[ $name =~ ^(\*\.)?[A-Za-z0-9._-]+$ ]]; then
		san+=,DNS:$name
	else
		echo "generate_certs: '$name' is neither a host name nor an address" >&2
		exit 2
	fi
done

mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# make_key FILE
make_key()
{
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# sign NAME SUBJECT EXTENSIONS: DIR/NAME.key and DIR/NAME.pem, both or none
sign()
{
	local name=$1 subject=$2 extensions=$3

	if [[ -e $dir/$name.pem || -e $dir/$name.key ]]; then
		echo "generate_certs: $dir/$name.* is there already and stays"
		return
	fi
	make_key "$work/$name.key"
	openssl req -new -key "$work/$name.key" -subj "$subject" -out "$work/$name.csr"
	printf '%s\n' "$extensions" >"$work/$name.ext"
	openssl x509 -req -in "$work/$name.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" \
		-set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$work/$name.ext" \
		-out "$work/$name.pem" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
	cat "$dir/ca.pem" >>"$work/$name.pem"
	chmod 0644 "$work/$name.pem"
	mv "$work/$name.key" "$dir/$name.key"
	mv "$work/$name.pem" "$dir/$name.pem"
	echo "$dir/$name.pem, $dir/$name.key"
}

if [[ -e $dir/ca.pem || -e $dir/ca.key ]]; then
	[[ -e $dir/ca.pem && -e $dir/ca.key ]] || {
		echo "generate_certs: of $dir/ca.pem and $dir/ca.key one is missing" >&2
		exit 1
	}
	echo "generate_certs: $dir/ca.pem is there already and signs"
else
	make_key "$work/ca.key"
	openssl req -x509 -new -key "$work/ca.key" -subj "/CN=layer4-lb test authority" \
		-days $((days * 10)) -addext "basicConstraints=critical,CA:TRUE" \
		-addext "keyUsage=critical,keyCertSign,cRLSign" -out "$work/ca.pem"
	chmod 0644 "$work/ca.pem"
	mv "$work/ca.key" "$dir/ca.key"
	mv "$work/ca.pem" "$dir/ca.pem"
	echo "$dir/ca.pem, $dir/ca.key"
fi

common="basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
keyUsage=critical,digitalSignature"
sign server "/CN=${names[0]:0:64}" "$common
extendedKeyUsage=serverAuth
subjectAltName=${san#,}"
sign client "/CN=client" "$common
extendedKeyUsage=clientAuth"
