"""From what was sent to a device to the line of the transcript that says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from yubihsm.defs import COMMAND, OBJECT

from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import records
from sigsum_ops.hsm.device import NO_REPLY, Exchange
from sigsum_ops.hsm.plan import ObjectSpec

Commitment = Callable[[ObjectSpec], str | None]


def command(serial: int, exchange: Exchange, commitment: Commitment) -> records.Command:
    """The record of one exchange; ``commitment`` stands for the secret of an object that is put.

    Raises:
        ValueError: a command that has no place in a ceremony, so that nothing is done unrecorded.
    """
    error = None
    if exchange.error == NO_REPLY:
        error = records.NO_REPLY
    elif exchange.error is not None:
        error = names.name_of(names.ERRORS, exchange.error)
    return records.Command(
        serial=serial,
        session_key=exchange.session_key,
        command=names.name_of(names.COMMANDS, exchange.command),
        parameters=_parameters(exchange, commitment),
        reply=None if error else _reply(exchange),
        error=error,
    )


def reference(kind: OBJECT, number: int) -> records.ObjectRef:
    return records.ObjectRef(names.name_of(names.TYPES, kind), number)


def _parameters(exchange: Exchange, commitment: Commitment) -> Any:
    match exchange.command, exchange.arguments:
        case COMMAND.CREATE_SESSION | COMMAND.GET_PUBLIC_KEY, (key,):
            return records.KeyId(key)
        case COMMAND.GET_PSEUDO_RANDOM, (length,):
            return records.Length(length)
        case COMMAND.GET_OBJECT_INFO | COMMAND.DELETE_OBJECT, (kind, number):
            return reference(kind, number)
        case COMMAND.PUT_AUTHENTICATION_KEY | COMMAND.PUT_WRAP_KEY, (spec,):
            return records.Create(spec.new_object(), commitment(spec))
        case COMMAND.GENERATE_ASYMMETRIC_KEY, (spec,):
            return records.Create(spec.new_object(), None)
        case COMMAND.EXPORT_WRAPPED, (wrap_key, kind, number):
            return records.Export(wrap_key, reference(kind, number))
        case COMMAND.IMPORT_WRAPPED, (wrap_key, blob):
            return records.Import(wrap_key, hashlib.sha256(blob).hexdigest())
        case COMMAND.SIGN_ATTESTATION_CERTIFICATE, (number, attesting):
            return records.Attest(number, attesting)
        case COMMAND.SIGN_EDDSA, (number, message):
            return records.Sign(number, message.hex())
        case COMMAND.SET_LOG_INDEX, (number,):
            return records.LogIndex(number)
        case COMMAND.GET_OPTION, (option,):
            return records.Option(names.name_of(names.OPTIONS, option), None)
        case COMMAND.SET_OPTION, (option, value):
            return records.Option(names.name_of(names.OPTIONS, option), value.hex())
        case _, ():
            return records.Nothing()
    raise ValueError(f"{exchange.command.name} has no place in a ceremony")


def _reply(exchange: Exchange) -> Any:
    result = exchange.result
    match exchange.command:
        case (
            COMMAND.PUT_AUTHENTICATION_KEY | COMMAND.PUT_WRAP_KEY | COMMAND.GENERATE_ASYMMETRIC_KEY
        ):
            return records.KeyId(result)
        case COMMAND.GET_STORAGE_INFO:
            return records.Storage(result.records, result.free_records)
        case COMMAND.LIST_OBJECTS:
            return records.Listed(tuple(reference(*item) for item in result))
        case COMMAND.GET_OBJECT_INFO:
            return records.StoredObject.of(result)
        case COMMAND.GET_OPTION:
            option = names.name_of(names.OPTIONS, exchange.arguments[0])
            return records.Option(option, result.hex())
        case COMMAND.GET_PUBLIC_KEY:
            return records.Key("ed25519", result.hex())
        case COMMAND.SIGN_EDDSA:
            return records.Signed(result.hex())
        case COMMAND.EXPORT_WRAPPED:
            return records.Blob(hashlib.sha256(result).hexdigest())
        case COMMAND.IMPORT_WRAPPED:
            return reference(*result)
    return records.Nothing()
