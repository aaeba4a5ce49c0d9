"""The commands: what each needs, what it does, and what it answers.

A handler gets a Call, reads the command's data from it, changes the state, and returns the data of
the reply; it raises DeviceError before it has changed anything. Which capability the session needs
is in the table at the end. Where Yubico documents no rule, the stricter one was taken, so that
what passes here passes on a real device.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT, OPTION, ORIGIN

from sigsum_ops.hsm.identity import REHEARSAL_PART_NUMBER
from sigsum_ops.hsm.rehearsal import attestation, devicelog, keys, wrap
from sigsum_ops.hsm.rehearsal.frames import DeviceError, Fields, named
from sigsum_ops.hsm.rehearsal.state import State
from sigsum_ops.hsm.rehearsal.store import DELEGATING, FACTORY_KEY, LABEL_SIZE, Object

# In the order in which the device lists them; 0x07 and 0x09 are not published.
AUDITABLE = bytes.fromhex(
    "010304050607090840414243444546475556484957"
    "4a4b4c4d674e4f505152535458595a5b5c5d5e5f60616263646566"
    "68696a6b6c0a6d6e6f7071727374757677"
)
# A device with forced audit and a full log still does these: so that somebody can free it.
EVEN_IF_LOG_FULL = frozenset({COMMAND.GET_LOG_ENTRIES, COMMAND.SET_LOG_INDEX})

_LARGE_MESSAGES = (2, 4, 0)  # the firmware from which DEVICE_INFO has a second page, too
_DELETE = {
    OBJECT.OPAQUE: CAPABILITY.DELETE_OPAQUE,
    OBJECT.AUTHENTICATION_KEY: CAPABILITY.DELETE_AUTHENTICATION_KEY,
    OBJECT.ASYMMETRIC_KEY: CAPABILITY.DELETE_ASYMMETRIC_KEY,
    OBJECT.WRAP_KEY: CAPABILITY.DELETE_WRAP_KEY,
    OBJECT.HMAC_KEY: CAPABILITY.DELETE_HMAC_KEY,
}


@dataclass(frozen=True)
class Rights:
    """What a session may do: its authentication key's rights when it was opened."""

    key: int
    capabilities: int
    delegated: int
    domains: int


@dataclass
class Call:
    """One command in a session. ``target`` and ``second`` are for the log."""

    state: State
    rights: Rights
    data: Fields
    target: int = devicelog.NOTHING
    second: int = devicelog.NOTHING

    def need(self, capability: CAPABILITY) -> None:
        """INSUFFICIENT_PERMISSIONS where the session has not that capability."""
        if not self.rights.capabilities & capability:
            raise DeviceError(ERROR.INSUFFICIENT_PERMISSIONS)

    def find(self, kind: OBJECT, object_id: int) -> Object:
        """The object that the command works on, if the session sees it."""
        if self.target == devicelog.NOTHING:
            self.target = object_id
        else:
            self.second = object_id
        return self.state.store.find(kind, object_id, self.rights.domains)


def message_limit(firmware: tuple[int, int, int]) -> int:
    """Bytes of the longest message that the device takes and sends."""
    return 3136 if firmware >= _LARGE_MESSAGES else 2048


def _echo(call: Call) -> bytes:
    return call.data.rest()


def _device_info(call: Call) -> bytes:
    state = call.state
    if call.data.left and state.firmware >= _LARGE_MESSAGES:
        page = call.data.number(1)
        call.data.end()
        if page == 1:
            return REHEARSAL_PART_NUMBER.encode()
        if page != 0:
            raise DeviceError(ERROR.INVALID_DATA)
    call.data.end()
    return (
        bytes(state.firmware)
        + state.serial.to_bytes(4, "big")
        + bytes([devicelog.CAPACITY, len(state.log.entries)])
        + bytes(sorted(keys.SUPPORTED))
    )


def _device_public_key(call: Call) -> bytes:
    call.data.end()
    point = keys.public_key(ALGORITHM.EC_P256, call.state.device_key)
    return bytes([ALGORITHM.EC_P256_YUBICO_AUTHENTICATION]) + point


def _close_session(call: Call) -> bytes:
    call.data.end()
    return b""


def _storage_info(call: Call) -> bytes:
    call.data.end()
    return call.state.store.storage()


def _blink(call: Call) -> bytes:
    call.data.take(1)
    call.data.end()
    return b""


def _reset(call: Call) -> bytes:
    call.data.end()
    call.state.reset()
    return b""


def _random(call: Call) -> bytes:
    count = call.data.number(2)
    call.data.end()
    if count > message_limit(call.state.firmware):
        raise DeviceError(ERROR.WRONG_LENGTH)
    return secrets.token_bytes(count)


def _list_objects(call: Call) -> bytes:
    found = call.state.store.select(call.data.rest(), call.rights.domains)
    return b"".join(
        item.id.to_bytes(2, "big") + bytes([item.type, item.sequence]) for item in found
    )


def _object_info(call: Call) -> bytes:
    object_id, kind = call.data.number(2), call.data.named(OBJECT)
    call.data.end()
    return call.find(kind, object_id).info()


def _delete(call: Call) -> bytes:
    object_id, kind = call.data.number(2), call.data.named(OBJECT)
    call.data.end()
    item = call.find(kind, object_id)
    call.need(_DELETE[kind])
    call.state.store.remove(item)
    return b""


def _put_opaque(call: Call) -> bytes:
    return _create(call, OBJECT.OPAQUE, imported=True)


def _put_authentication_key(call: Call) -> bytes:
    return _create(call, OBJECT.AUTHENTICATION_KEY, imported=True)


def _put_asymmetric_key(call: Call) -> bytes:
    return _create(call, OBJECT.ASYMMETRIC_KEY, imported=True)


def _generate_asymmetric_key(call: Call) -> bytes:
    return _create(call, OBJECT.ASYMMETRIC_KEY, imported=False)


def _put_wrap_key(call: Call) -> bytes:
    return _create(call, OBJECT.WRAP_KEY, imported=True)


def _generate_wrap_key(call: Call) -> bytes:
    return _create(call, OBJECT.WRAP_KEY, imported=False)


def _put_hmac_key(call: Call) -> bytes:
    return _create(call, OBJECT.HMAC_KEY, imported=True)


def _generate_hmac_key(call: Call) -> bytes:
    return _create(call, OBJECT.HMAC_KEY, imported=False)


def _create(call: Call, kind: OBJECT, *, imported: bool) -> bytes:
    """Put or generate: id, label, domains, capabilities, algorithm, delegated capabilities, key."""
    data = call.data
    object_id = call.target = data.number(2)
    label = data.take(LABEL_SIZE)
    domains, capabilities = data.number(2), data.number(8)
    algorithm = data.named(ALGORITHM)
    delegated = data.number(8) if kind in DELEGATING else 0
    key = data.rest() if imported else b""
    data.end()
    _allow_algorithm(call.state, kind, algorithm)
    _allow_rights(call.rights, domains, capabilities, delegated)
    item = Object(
        id=object_id,
        type=kind,
        algorithm=algorithm,
        label=label,
        domains=domains,
        capabilities=capabilities,
        delegated=delegated,
        origin=ORIGIN.IMPORTED if imported else ORIGIN.GENERATED,
        sequence=0,
        body=keys.load(algorithm, key) if imported else keys.generate(algorithm),
    )
    stored = call.state.store.add(item)
    call.target = stored.id
    return stored.id.to_bytes(2, "big")


def _allow_algorithm(state: State, kind: OBJECT, algorithm: ALGORITHM) -> None:
    """ALGORITHM_DISABLED also for what a real device has and this one has not, such as RSA."""
    if algorithm not in keys.SUPPORTED or algorithm in state.options.disabled:
        raise DeviceError(ERROR.ALGORITHM_DISABLED)
    if algorithm not in keys.ALGORITHMS[kind]:
        raise DeviceError(ERROR.INVALID_DATA)


def _allow_rights(rights: Rights, domains: int, capabilities: int, delegated: int) -> None:
    """A session gives away what was delegated to it, in its own domains."""
    if not domains:
        raise DeviceError(ERROR.INVALID_DATA)
    if domains & ~rights.domains or (capabilities | delegated) & ~rights.delegated:
        raise DeviceError(ERROR.INSUFFICIENT_PERMISSIONS)


def _change_authentication_key(call: Call) -> bytes:
    object_id, algorithm = call.data.number(2), call.data.named(ALGORITHM)
    key = call.data.rest()
    if object_id != call.rights.key:
        raise DeviceError(ERROR.INVALID_ID)
    item = call.find(OBJECT.AUTHENTICATION_KEY, object_id)
    if algorithm != item.algorithm:
        raise DeviceError(ERROR.INVALID_DATA)
    call.state.store.replace(replace(item, body=keys.load(algorithm, key)))
    return object_id.to_bytes(2, "big")


def _get_opaque(call: Call) -> bytes:
    object_id = call.data.number(2)
    call.data.end()
    if object_id == 0:
        call.target = object_id
        return call.state.attestation_certificate
    return call.find(OBJECT.OPAQUE, object_id).body


def _public_key(call: Call) -> bytes:
    object_id = call.data.number(2)
    kind = call.data.named(OBJECT) if call.data.left else OBJECT.ASYMMETRIC_KEY
    call.data.end()
    item = call.find(kind, object_id)
    if kind != OBJECT.ASYMMETRIC_KEY:
        raise DeviceError(ERROR.INVALID_DATA)
    return bytes([item.algorithm]) + keys.public_key(item.algorithm, item.body)


def _asymmetric(call: Call, capability: CAPABILITY) -> Object:
    item = call.find(OBJECT.ASYMMETRIC_KEY, call.data.number(2))
    item.need(capability)
    return item


def _sign_eddsa(call: Call) -> bytes:
    item = _asymmetric(call, CAPABILITY.SIGN_EDDSA)
    return keys.sign_eddsa(item.algorithm, item.body, call.data.rest())


def _sign_ecdsa(call: Call) -> bytes:
    item = _asymmetric(call, CAPABILITY.SIGN_ECDSA)
    return keys.sign_ecdsa(item.algorithm, item.body, call.data.rest())


def _derive_ecdh(call: Call) -> bytes:
    item = _asymmetric(call, CAPABILITY.DERIVE_ECDH)
    return keys.agree(item.algorithm, item.body, call.data.rest())


def _attest(call: Call) -> bytes:
    key_id, attesting_id = call.data.number(2), call.data.number(2)
    call.data.end()
    state = call.state
    item = call.find(OBJECT.ASYMMETRIC_KEY, key_id)
    if attesting_id == 0:
        call.second = attesting_id
        key = keys.ec_private(ALGORITHM.EC_P256, state.attestation_key)
        template = state.attestation_certificate
    else:
        attesting = call.find(OBJECT.ASYMMETRIC_KEY, attesting_id)
        attesting.need(CAPABILITY.SIGN_ATTESTATION_CERTIFICATE)
        key = keys.ec_private(attesting.algorithm, attesting.body)
        template = call.find(OBJECT.OPAQUE, attesting_id).body
    return attestation.attest(item, state.serial, state.firmware, key, template)


def _sign_hmac(call: Call) -> bytes:
    item = call.find(OBJECT.HMAC_KEY, call.data.number(2))
    item.need(CAPABILITY.SIGN_HMAC)
    return keys.sign_hmac(item.algorithm, item.body, call.data.rest())


def _verify_hmac(call: Call) -> bytes:
    item = call.find(OBJECT.HMAC_KEY, call.data.number(2))
    item.need(CAPABILITY.VERIFY_HMAC)
    mac = call.data.take(keys.hmac_size(item.algorithm))
    return bytes([keys.verify_hmac(item.algorithm, item.body, mac, call.data.rest())])


def _export_wrapped(call: Call) -> bytes:
    data = call.data
    wrap_id, kind, object_id = data.number(2), data.named(OBJECT), data.number(2)
    form = data.number(1) if data.left and call.state.firmware >= _LARGE_MESSAGES else None
    data.end()
    wrap_key = call.find(OBJECT.WRAP_KEY, wrap_id)
    wrap_key.need(CAPABILITY.EXPORT_WRAPPED)
    item = call.find(kind, object_id)
    item.need(CAPABILITY.EXPORTABLE_UNDER_WRAP)
    if not item.domains & wrap_key.domains:
        raise DeviceError(ERROR.INSUFFICIENT_PERMISSIONS)
    _allow_wrapped(wrap_key, item)
    if form is not None and (form > 1 or item.algorithm != ALGORITHM.EC_ED25519):
        raise DeviceError(ERROR.INVALID_DATA)
    return wrap.seal(wrap_key, item, seed=form == 1)


def _import_wrapped(call: Call) -> bytes:
    wrap_key = call.find(OBJECT.WRAP_KEY, call.data.number(2))
    wrap_key.need(CAPABILITY.IMPORT_WRAPPED)
    item = wrap.unseal(wrap_key, call.data.rest())
    call.second = item.id
    _allow_algorithm(call.state, item.type, item.algorithm)
    _allow_wrapped(wrap_key, item)
    domains = item.domains & wrap_key.domains
    _allow_rights(call.rights, domains, item.capabilities, item.delegated)
    item = replace(item, domains=domains, origin=item.origin | ORIGIN.IMPORTED_WRAPPED)
    stored = call.state.store.add(item)
    return bytes([stored.type]) + stored.id.to_bytes(2, "big")


def _allow_wrapped(wrap_key: Object, item: Object) -> None:
    """A wrap key lets through only what was delegated to it."""
    if (item.capabilities | item.delegated) & ~wrap_key.delegated:
        raise DeviceError(ERROR.INSUFFICIENT_PERMISSIONS)


def _log_entries(call: Call) -> bytes:
    call.data.end()
    return call.state.log.encode()


def _set_log_index(call: Call) -> bytes:
    number = call.data.number(2)
    call.data.end()
    call.state.log.fetched(number)
    return b""


def _get_option(call: Call) -> bytes:
    option = call.data.number(1)
    call.data.end()
    options = call.state.options
    if option == OPTION.FORCE_AUDIT:
        return bytes([options.force_audit])
    if option == OPTION.COMMAND_AUDIT:
        pairs = ((code, options.command_audit.get(code, AUDIT.OFF)) for code in AUDITABLE)
        return bytes(byte for pair in pairs for byte in pair)
    if option == OPTION.ALGORITHM_TOGGLE:
        enabled = keys.SUPPORTED - options.disabled
        return bytes(byte for a in sorted(ALGORITHM) for byte in (a, a in enabled))
    raise DeviceError(ERROR.INVALID_DATA)


def _set_option(call: Call) -> bytes:
    option, length = call.data.number(1), call.data.number(2)
    value = call.data.take(length)
    call.data.end()
    if option == OPTION.FORCE_AUDIT:
        _set_force_audit(call.state, value)
    elif option == OPTION.COMMAND_AUDIT:
        _set_command_audit(call.state, _pairs(value))
    elif option == OPTION.ALGORITHM_TOGGLE:
        _set_algorithms(call.state, _pairs(value))
    else:
        raise DeviceError(ERROR.INVALID_DATA)
    call.state.options.changes += 1
    return b""


def _set_force_audit(state: State, value: bytes) -> None:
    if len(value) != 1:
        raise DeviceError(ERROR.WRONG_LENGTH)
    _allow_audit(state.options.force_audit, value[0])
    state.options.force_audit = value[0]


def _set_command_audit(state: State, wanted: Mapping[int, int]) -> None:
    settings = dict(state.options.command_audit)
    for command, value in wanted.items():
        if command not in AUDITABLE:
            raise DeviceError(ERROR.INVALID_DATA)
        if command == COMMAND.SESSION_MESSAGE and value != AUDIT.OFF:
            raise DeviceError(ERROR.INVALID_DATA)
        _allow_audit(settings.get(command, AUDIT.OFF), value)
        settings[command] = value
    state.options.command_audit = {c: value for c, value in settings.items() if value != AUDIT.OFF}


def _set_algorithms(state: State, wanted: Mapping[int, int]) -> None:
    """Only a device without objects of its own can be told to forget an algorithm."""
    if [item.key for item in state.store] != [(OBJECT.AUTHENTICATION_KEY, FACTORY_KEY)]:
        raise DeviceError(ERROR.INVALID_DATA)
    disabled = set(state.options.disabled)
    for number, value in wanted.items():
        algorithm = named(ALGORITHM, number)
        if value not in (0, 1) or (value and algorithm not in keys.SUPPORTED):
            raise DeviceError(ERROR.INVALID_DATA)
        (disabled.discard if value else disabled.add)(algorithm)
    state.options.disabled = frozenset(disabled)


def _allow_audit(before: int, wanted: int) -> None:
    """What is fixed stays, until a reset."""
    if wanted not in list(AUDIT) or (before == AUDIT.FIXED and wanted != AUDIT.FIXED):
        raise DeviceError(ERROR.INVALID_DATA)


def _pairs(value: bytes) -> dict[int, int]:
    if len(value) % 2:
        raise DeviceError(ERROR.WRONG_LENGTH)
    return dict(zip(value[::2], value[1::2], strict=True))


Handler = Callable[[Call], bytes]

# Commands that need no session; they can be sent in one, too.
PLAIN: Mapping[int, Handler] = {
    COMMAND.ECHO: _echo,
    COMMAND.DEVICE_INFO: _device_info,
    COMMAND.GET_DEVICE_PUBLIC_KEY: _device_public_key,
}
# Commands of a session, and the capability that it needs; DELETE_OBJECT's depends on the type.
IN_SESSION: Mapping[int, tuple[Handler, CAPABILITY | None]] = {
    COMMAND.RESET_DEVICE: (_reset, CAPABILITY.RESET_DEVICE),
    COMMAND.CLOSE_SESSION: (_close_session, None),
    COMMAND.GET_STORAGE_INFO: (_storage_info, None),
    COMMAND.PUT_OPAQUE: (_put_opaque, CAPABILITY.PUT_OPAQUE),
    COMMAND.GET_OPAQUE: (_get_opaque, CAPABILITY.GET_OPAQUE),
    COMMAND.PUT_AUTHENTICATION_KEY: (_put_authentication_key, CAPABILITY.PUT_AUTHENTICATION_KEY),
    COMMAND.PUT_ASYMMETRIC_KEY: (_put_asymmetric_key, CAPABILITY.PUT_ASYMMETRIC),
    COMMAND.GENERATE_ASYMMETRIC_KEY: (_generate_asymmetric_key, CAPABILITY.GENERATE_ASYMMETRIC_KEY),
    COMMAND.LIST_OBJECTS: (_list_objects, None),
    COMMAND.EXPORT_WRAPPED: (_export_wrapped, CAPABILITY.EXPORT_WRAPPED),
    COMMAND.IMPORT_WRAPPED: (_import_wrapped, CAPABILITY.IMPORT_WRAPPED),
    COMMAND.PUT_WRAP_KEY: (_put_wrap_key, CAPABILITY.PUT_WRAP_KEY),
    COMMAND.GET_LOG_ENTRIES: (_log_entries, CAPABILITY.GET_LOG_ENTRIES),
    COMMAND.GET_OBJECT_INFO: (_object_info, None),
    COMMAND.SET_OPTION: (_set_option, CAPABILITY.SET_OPTION),
    COMMAND.GET_OPTION: (_get_option, CAPABILITY.GET_OPTION),
    COMMAND.GET_PSEUDO_RANDOM: (_random, CAPABILITY.GET_PSEUDO_RANDOM),
    COMMAND.PUT_HMAC_KEY: (_put_hmac_key, CAPABILITY.PUT_HMAC_KEY),
    COMMAND.SIGN_HMAC: (_sign_hmac, CAPABILITY.SIGN_HMAC),
    COMMAND.GET_PUBLIC_KEY: (_public_key, None),
    COMMAND.SIGN_ECDSA: (_sign_ecdsa, CAPABILITY.SIGN_ECDSA),
    COMMAND.DERIVE_ECDH: (_derive_ecdh, CAPABILITY.DERIVE_ECDH),
    COMMAND.DELETE_OBJECT: (_delete, None),
    COMMAND.GENERATE_HMAC_KEY: (_generate_hmac_key, CAPABILITY.GENERATE_HMAC_KEY),
    COMMAND.GENERATE_WRAP_KEY: (_generate_wrap_key, CAPABILITY.GENERATE_WRAP_KEY),
    COMMAND.VERIFY_HMAC: (_verify_hmac, CAPABILITY.VERIFY_HMAC),
    COMMAND.SIGN_ATTESTATION_CERTIFICATE: (_attest, CAPABILITY.SIGN_ATTESTATION_CERTIFICATE),
    COMMAND.SET_LOG_INDEX: (_set_log_index, CAPABILITY.GET_LOG_ENTRIES),
    COMMAND.SIGN_EDDSA: (_sign_eddsa, CAPABILITY.SIGN_EDDSA),
    COMMAND.BLINK_DEVICE: (_blink, None),
    COMMAND.CHANGE_AUTHENTICATION_KEY: (
        _change_authentication_key,
        CAPABILITY.CHANGE_AUTHENTICATION_KEY,
    ),
}
# What opens and carries sessions; device.py does these.
SESSIONS = (COMMAND.CREATE_SESSION, COMMAND.AUTHENTICATE_SESSION, COMMAND.SESSION_MESSAGE)


def implemented(command: int) -> bool:
    """Whether the rehearsal device does this command; the others are INVALID_COMMAND."""
    return command in PLAIN or command in IN_SESSION or command in SESSIONS


def execute(call: Call, command: int) -> bytes:
    """Do a command in a session.

    Raises:
        DeviceError: it is refused, and nothing was changed.
    """
    if command in PLAIN:
        return PLAIN[command](call)
    if command not in IN_SESSION:
        raise DeviceError(ERROR.INVALID_COMMAND)
    handler, capability = IN_SESSION[command]
    if capability is not None:
        call.need(capability)
    return handler(call)
