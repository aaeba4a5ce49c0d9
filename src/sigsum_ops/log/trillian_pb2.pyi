from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

ACTIVE: TreeState
DEPRECATED_HARD_DELETED: TreeState
DEPRECATED_SOFT_DELETED: TreeState
DESCRIPTOR: _descriptor.FileDescriptor
DRAINING: TreeState
FROZEN: TreeState
LOG: TreeType
PREORDERED_LOG: TreeType
UNKNOWN_TREE_STATE: TreeState
UNKNOWN_TREE_TYPE: TreeType

class CreateTreeRequest(_message.Message):
    __slots__ = ["tree"]
    TREE_FIELD_NUMBER: _ClassVar[int]
    tree: Tree
    def __init__(self, tree: _Optional[_Union[Tree, _Mapping]] = ...) -> None: ...

class GetConsistencyProofRequest(_message.Message):
    __slots__ = ["first_tree_size", "log_id", "second_tree_size"]
    FIRST_TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    SECOND_TREE_SIZE_FIELD_NUMBER: _ClassVar[int]
    first_tree_size: int
    log_id: int
    second_tree_size: int
    def __init__(self, log_id: _Optional[int] = ..., first_tree_size: _Optional[int] = ..., second_tree_size: _Optional[int] = ...) -> None: ...

class GetConsistencyProofResponse(_message.Message):
    __slots__ = ["proof", "signed_log_root"]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    SIGNED_LOG_ROOT_FIELD_NUMBER: _ClassVar[int]
    proof: Proof
    signed_log_root: SignedLogRoot
    def __init__(self, proof: _Optional[_Union[Proof, _Mapping]] = ..., signed_log_root: _Optional[_Union[SignedLogRoot, _Mapping]] = ...) -> None: ...

class GetLatestSignedLogRootRequest(_message.Message):
    __slots__ = ["log_id"]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    log_id: int
    def __init__(self, log_id: _Optional[int] = ...) -> None: ...

class GetLatestSignedLogRootResponse(_message.Message):
    __slots__ = ["signed_log_root"]
    SIGNED_LOG_ROOT_FIELD_NUMBER: _ClassVar[int]
    signed_log_root: SignedLogRoot
    def __init__(self, signed_log_root: _Optional[_Union[SignedLogRoot, _Mapping]] = ...) -> None: ...

class GetTreeRequest(_message.Message):
    __slots__ = ["tree_id"]
    TREE_ID_FIELD_NUMBER: _ClassVar[int]
    tree_id: int
    def __init__(self, tree_id: _Optional[int] = ...) -> None: ...

class InitLogRequest(_message.Message):
    __slots__ = ["log_id"]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    log_id: int
    def __init__(self, log_id: _Optional[int] = ...) -> None: ...

class InitLogResponse(_message.Message):
    __slots__ = ["created"]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    created: SignedLogRoot
    def __init__(self, created: _Optional[_Union[SignedLogRoot, _Mapping]] = ...) -> None: ...

class ListTreesRequest(_message.Message):
    __slots__ = ["show_deleted"]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    show_deleted: bool
    def __init__(self, show_deleted: bool = ...) -> None: ...

class ListTreesResponse(_message.Message):
    __slots__ = ["tree"]
    TREE_FIELD_NUMBER: _ClassVar[int]
    tree: _containers.RepeatedCompositeFieldContainer[Tree]
    def __init__(self, tree: _Optional[_Iterable[_Union[Tree, _Mapping]]] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ["hashes", "leaf_index"]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    LEAF_INDEX_FIELD_NUMBER: _ClassVar[int]
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    leaf_index: int
    def __init__(self, leaf_index: _Optional[int] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SignedLogRoot(_message.Message):
    __slots__ = ["log_root"]
    LOG_ROOT_FIELD_NUMBER: _ClassVar[int]
    log_root: bytes
    def __init__(self, log_root: _Optional[bytes] = ...) -> None: ...

class Tree(_message.Message):
    __slots__ = ["deleted", "description", "display_name", "max_root_duration", "tree_id", "tree_state", "tree_type"]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_ROOT_DURATION_FIELD_NUMBER: _ClassVar[int]
    TREE_ID_FIELD_NUMBER: _ClassVar[int]
    TREE_STATE_FIELD_NUMBER: _ClassVar[int]
    TREE_TYPE_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    description: str
    display_name: str
    max_root_duration: _duration_pb2.Duration
    tree_id: int
    tree_state: TreeState
    tree_type: TreeType
    def __init__(self, tree_id: _Optional[int] = ..., tree_state: _Optional[_Union[TreeState, str]] = ..., tree_type: _Optional[_Union[TreeType, str]] = ..., display_name: _Optional[str] = ..., description: _Optional[str] = ..., max_root_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., deleted: bool = ...) -> None: ...

class UpdateTreeRequest(_message.Message):
    __slots__ = ["tree", "update_mask"]
    TREE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    tree: Tree
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, tree: _Optional[_Union[Tree, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class TreeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class TreeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
