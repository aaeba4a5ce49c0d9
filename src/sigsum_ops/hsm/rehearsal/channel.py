"""The secure channel, the device's end.

Symmetric authentication follows GlobalPlatform SCP03 (key derivation: section 4.1.5, NIST SP
800-108 in counter mode with AES-CMAC), asymmetric authentication SCP11 (key agreement: section
6.5.2.3). Messages are AES-128-CBC with ISO 9797-1 padding method 2; the IV is the encrypted message
counter, the same for command and reply. A command's MAC covers the chaining value before it and
becomes the next one; a reply's MAC covers that one and does not advance it.
"""

from __future__ import annotations

import struct
from hmac import compare_digest

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.defs import COMMAND, ERROR

from sigsum_ops.hsm.rehearsal.frames import DeviceError, Frame, reply

CHALLENGE_SIZE = 8
POINT_SIZE = 65  # an uncompressed point of P-256
_BLOCK = 16
_MAC_SIZE = 8
_S_ENC, _S_MAC, _S_RMAC = 0x04, 0x06, 0x07
_CARD, _HOST = 0x00, 0x01
_SHARED_INFO = bytes.fromhex("3c8810")  # SCP11: key usage, key type AES, key length

# Frame header, session id and MAC around the encrypted part of a session message.
_OVERHEAD = 3 + 1 + _MAC_SIZE


class Channel:
    """One session's keys and counters."""

    def __init__(self, sid: int, s_enc: bytes, s_mac: bytes, s_rmac: bytes, chain: bytes) -> None:
        self.sid = sid
        self._s_enc = s_enc
        self._s_mac = s_mac
        self._s_rmac = s_rmac
        self._chain = chain
        self._counter = 1

    def verify(self, command: int, data: bytes) -> bytes:
        """Check the MAC at the end of ``data`` and return what it protects.

        Raises:
            DeviceError: WRONG_LENGTH where no MAC fits, AUTHENTICATION_FAILED where it is wrong.
        """
        if len(data) < 1 + _MAC_SIZE:
            raise DeviceError(ERROR.WRONG_LENGTH)
        body, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
        chain = _cmac(self._s_mac, self._chain + _header(command, data) + body)
        if not compare_digest(chain[:_MAC_SIZE], mac):
            raise DeviceError(ERROR.AUTHENTICATION_FAILED)
        self._chain = chain
        return body

    def open(self, data: bytes) -> bytes:
        """Verify and decrypt a SESSION_MESSAGE: the inner frame, or nothing where it is none.

        Raises:
            DeviceError: WRONG_LENGTH where no MAC fits; AUTHENTICATION_FAILED where the client does
                not hold the session's keys.
        """
        body = self.verify(COMMAND.SESSION_MESSAGE, data)
        if len(body) < 1 + _BLOCK or len(body) % _BLOCK != 1:
            raise DeviceError(ERROR.AUTHENTICATION_FAILED)
        decryptor = self._cipher().decryptor()
        padded = decryptor.update(body[1:]) + decryptor.finalize()
        plain = padded.rstrip(b"\0")
        return plain[:-1] if plain.endswith(b"\x80") else b""

    def seal(self, inner: Frame) -> Frame:
        """Encrypt the reply to the message that was opened last."""
        plain = inner.encode() + b"\x80"
        encryptor = self._cipher().encryptor()
        padded = plain + b"\0" * (-len(plain) % _BLOCK)
        body = bytes([self.sid]) + encryptor.update(padded) + encryptor.finalize()
        header = _header(COMMAND.SESSION_MESSAGE | 0x80, body + b"\0" * _MAC_SIZE)
        mac = _cmac(self._s_rmac, self._chain + header + body)[:_MAC_SIZE]
        self._counter += 1
        return reply(COMMAND.SESSION_MESSAGE, body + mac)

    def _cipher(self) -> Cipher[modes.CBC]:
        key = algorithms.AES(self._s_enc)
        encryptor = Cipher(key, modes.ECB()).encryptor()  # noqa: S305 - one block: it makes the IV
        iv = encryptor.update(self._counter.to_bytes(_BLOCK, "big")) + encryptor.finalize()
        return Cipher(key, modes.CBC(iv))


def begin_symmetric(
    sid: int, keys: bytes, host_challenge: bytes, card_challenge: bytes
) -> tuple[Channel, bytes, bytes]:
    """Start a session with K-ENC and K-MAC (``keys``, 32 bytes).

    Returns the channel, the card cryptogram to send, and the host cryptogram to expect.
    """
    k_enc, k_mac = keys[:16], keys[16:]
    context = host_challenge + card_challenge
    s_mac = _derive(k_mac, _S_MAC, context)
    channel = Channel(
        sid,
        _derive(k_enc, _S_ENC, context),
        s_mac,
        _derive(k_mac, _S_RMAC, context),
        b"\0" * _BLOCK,
    )
    return channel, _derive(s_mac, _CARD, context, 64), _derive(s_mac, _HOST, context, 64)


def begin_asymmetric(
    sid: int, device_key: ec.EllipticCurvePrivateKey, host_key: bytes, host_ephemeral: bytes
) -> tuple[Channel, bytes, bytes]:
    """Start a session with the host's static public key (64 bytes) and ephemeral one (65 bytes).

    Returns the channel, the device's ephemeral public key, and the receipt.

    Raises:
        DeviceError: INVALID_DATA where the ephemeral key is no point of P-256.
    """
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    shared = ephemeral.exchange(ec.ECDH(), p256_point(host_ephemeral))
    shared += device_key.exchange(ec.ECDH(), p256_point(b"\x04" + host_key))
    keys = X963KDF(SHA256(), 4 * _BLOCK, _SHARED_INFO).derive(shared)
    receipt_key, s_enc, s_mac, s_rmac = (keys[at : at + _BLOCK] for at in range(0, 64, _BLOCK))
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    receipt = _cmac(receipt_key, point + host_ephemeral)
    return Channel(sid, s_enc, s_mac, s_rmac, receipt), point, receipt


def p256_point(encoded: bytes) -> ec.EllipticCurvePublicKey:
    """Decode an uncompressed point; INVALID_DATA where it is not on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError:
        raise DeviceError(ERROR.INVALID_DATA) from None


def largest_reply(message_limit: int) -> int:
    """How many bytes of data fit in the reply of a session whose messages are so long at most."""
    blocks = (message_limit - _OVERHEAD) // _BLOCK
    return blocks * _BLOCK - 1 - 3  # one byte of padding, and the inner frame's header


def _header(command: int, data: bytes) -> bytes:
    return Frame(command, data).encode()[:3]


def _derive(key: bytes, constant: int, context: bytes, bits: int = 128) -> bytes:
    label = b"\0" * 11 + struct.pack("!BBHB", constant, 0, bits, 1)
    return _cmac(key, label + context)[: bits // 8]


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()
