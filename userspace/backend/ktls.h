/* SPDX-License-Identifier: MIT */
/*
 * kTLS: after the handshake the kernel seals what is written to a connection's socket, so that
 * splice(2) can fill it. Transmit side only. What is received stays OpenSSL's: its version 3.0
 * would give the kernel the receive side of TLS 1.2 alone, and there one recvmsg(2) opens all empty
 * records that have arrived (tls_sw_recvmsg() in net/tls/tls_sw.c of Linux 6.1 and 6.12), so a
 * client could keep a worker inside a system call.
 */
#ifndef LB_BACKEND_KTLS_H
#define LB_BACKEND_KTLS_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/ssl.h>

/*
 * Does the kernel of this process seal? Tries it over a connection with itself, which loads the
 * kernel's module where that is allowed. 0, or -errno with the reason in <why>. At start.
 */
int lb_ktls_probe(char *why, size_t size);

/*
 * Before the handshake of <ssl>, which speaks over <fd>: its keys for sending shall be the
 * kernel's, if it takes them. Without memory nothing is changed.
 */
void lb_ktls_offer(SSL *ssl, int fd);
/*
 * After the handshake: has it taken them? Then payload is written to the socket, by send(2) or
 * splice(2), and never by SSL_write(): OpenSSL keeps a pointer to the caller's buffer there, and
 * takes up what was left of it where the buffer once was. Alerts are still sent by OpenSSL. Keys
 * cannot be changed any more (the kernel can since 6.14): see lb_tls_heard.wants_keys.
 */
bool lb_ktls_sends(const SSL *ssl);
/*
 * Whether close(2) of <fd>, whose payload the kernel seals, loses nothing. A record that TCP has no
 * room for waits outside of its send buffer, and is thrown away if there still is none at the close
 * (tls_sw_release_resources_tx() in net/tls/tls_sw.c).
 */
bool lb_ktls_may_close(int fd);

#endif
