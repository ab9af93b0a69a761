"""YAML and Parquet that someone else may have written, as plain values, in bounds.

Both formats let a few bytes stand for gigabytes: YAML by references to what was said before, Parquet by run lengths.
"""

import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import yaml

from trainers.parquet_structure import check_parquet

LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is eight times as fast
MAX_YAML_BYTES = 4 * 2**20
MAX_YAML_VALUES = 100_000
"""Also after every reference is replaced by what it stands for."""
MAX_YAML_DEPTH = 64
MAX_TAG_DIRECTIVES = 100
"""libyaml compares each with all before it."""
MAX_NUMBER_CHARACTERS = 1000
"""Of a number or a date: PyYAML takes time with the square of a whole number's digits to base 60."""
MAX_OTHER_KEYS = 100
"""Keys of a document that are no texts: numbers can be chosen so that a dict compares each with all others."""

TEXTS = frozenset(("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"))
NUMBERS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))

MAX_TABLE_BYTES = 256 * 2**20
"""Of the file, and of all values together."""
MAX_BATCH_BYTES = 64 * 2**20
MAX_BATCHES = 50_000


def read_yaml(data: bytes | str) -> tuple[Any, yaml.Node | None]:
    """The one document of a YAML text, in UTF-8: its values, and its marked nodes.

    Raises:
        yaml.YAMLError: it is none.
        ValueError: it is too long, no UTF-8, nested too deep or, references replaced, too large; or a value of it makes
            no sense or would take long to make.
    """
    if len(data) > MAX_YAML_BYTES:
        raise ValueError(f"more than {MAX_YAML_BYTES:,} bytes of YAML")
    text = data if isinstance(data, str) else data.decode()
    if text.count("%TAG") > MAX_TAG_DIRECTIVES:
        raise ValueError(f"YAML of more than {MAX_TAG_DIRECTIVES} %TAG directives")
    try:
        _refuse_events(text)
        loader = LOADER(text)
        node: yaml.Node | None = loader.get_single_node()
        if node is None:
            return None, None
        _refuse_size(node)
        return loader.construct_document(node), node
    except (LookupError, TypeError, AttributeError, OverflowError) as error:  # a tag on what does not fit it
        raise ValueError(f"a value that does not fit its tag ({type(error).__name__})") from None


def _refuse_events(text: str) -> None:
    """Refuse what would take long to compose, and nesting that would use up the stack: libyaml's composer ends the
    process then.
    """
    loader, depth, count = LOADER(text), 0, 0
    while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):  # type: ignore[no-untyped-call]
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError("YAML that is nested too deep")
        if count > MAX_YAML_VALUES:
            raise ValueError(f"YAML of more than {MAX_YAML_VALUES:,} values")


def _refuse_size(root: yaml.Node) -> None:
    """Refuse documents whose references stand for too much, for something too deep, or for themselves, and values that
    take much time to make.
    """
    known: dict[int, tuple[float, int]] = {}
    other_keys = 0

    def measure(node: yaml.Node) -> tuple[float, int]:
        """Number of nodes and height, with references replaced; what they refer to comes first, and is known then."""
        nonlocal other_keys
        if id(node) not in known:
            known[id(node)] = math.inf, 0  # until it is known: a node inside itself
            if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and len(node.value) > MAX_NUMBER_CHARACTERS:
                raise ValueError(f"a number of more than {MAX_NUMBER_CHARACTERS:,} characters")
            if isinstance(node, yaml.MappingNode):
                other_keys += sum(key.tag not in TEXTS for key, _ in node.value)
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [measure(part) for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            known[id(node)] = 1 + sum(size for size, _ in parts), 1 + max((height for _, height in parts), default=0)
        return known[id(node)]

    size, height = measure(root)
    if other_keys > MAX_OTHER_KEYS:
        raise ValueError(f"YAML of more than {MAX_OTHER_KEYS} keys that are no texts")
    if size > MAX_YAML_VALUES:
        raise ValueError(f"YAML that stands for more than {MAX_YAML_VALUES:,} values")
    if height > MAX_YAML_DEPTH + 1:
        raise ValueError("YAML that is nested too deep")


def read_table(data: bytes) -> pa.Table:
    """A Parquet file as a table of numbers, texts and lists of them.

    Raises:
        ValueError: it is none, has other columns, or claims or holds more than the limits.
    """
    try:
        largest = check_parquet(data)
        file = pyarrow.parquet.ParquetFile(
            pa.BufferReader(data), thrift_string_size_limit=2**24, thrift_container_size_limit=2**20
        )
        _refuse_columns(file.schema_arrow)
        return _read_batches(file, largest)
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        first = str(error).split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"no Parquet table: {first}") from None


def _refuse_columns(schema: pa.Schema) -> None:
    for field in schema:
        if not _is_plain(field.type):
            raise ValueError(f"a column of type {str(field.type)[:100]}")
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("two columns of one name")


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        kind = kind.value_type
    scalar = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_null)
    return any(check(kind) for check in scalar)


def _read_batches(file: pyarrow.parquet.ParquetFile, largest: int) -> pa.Table:
    """All rows, a few at a time: one page, of `largest` bytes decompressed, may repeat a long text in every row."""
    rows = max(1, min(1024, MAX_BATCH_BYTES // max(1, largest)))
    if file.metadata.num_rows > MAX_BATCHES * rows:
        raise ValueError(f"a table of {file.metadata.num_rows:,} rows with a page of {largest:,} bytes")
    batches, total = [], 0
    for batch in file.iter_batches(batch_size=rows, use_threads=False):
        batches.append(batch)
        total += batch.nbytes
        if total > MAX_TABLE_BYTES:
            raise ValueError(f"a table of more than {MAX_TABLE_BYTES:,} bytes")
    table = pa.Table.from_batches(batches, file.schema_arrow)
    table.validate(full=True)  # texts may be none
    return table
