"""After binaries came onto a mirror: enter them into its index."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from stackyard.binary import Binary, Metadata
from stackyard.edges import console
from stackyard.edges.mirrors.contents import read_metadata
from stackyard.edges.mirrors.indexing import add_to_index, update_index
from stackyard.edges.mirrors.published import form_of, load
from stackyard.edges.stores.store import WritableStore

__all__ = ["enter_index"]

#: Of more binaries than this the metadata would fill the memory: the index reads them itself.
_MANY = 2000


def enter_index(
    store: WritableStore,
    new: Collection[str],
    metadata: Iterable[Metadata],
    here: Collection[str],
    there: Mapping[str, Binary],
) -> None:
    """See that the index names all these binaries, which lie on the mirror already.

    ``metadata`` are those of the ``new``, by DAG hash. ``here`` were there before, and may be
    lacking in the index; ``there`` has their manifests, of some or of all. Raises StoreError.
    """
    published = load(store, form_of(store))
    lacking = [key for key in here if key not in published.entries]
    if not new and not lacking:
        return
    if len(new) + len(lacking) > _MANY or not all(key in there for key in lacking):
        report = update_index(store, progress=console.note)
    else:
        older = (read_metadata(store, there[key]) for key in lacking)
        report = add_to_index(store, chain(metadata, older), progress=console.note)
    if report.problems:
        console.warn(
            f"{store.url}: {len(report.problems)} entries are corrupt, so the index does not name "
            "them; look closer with: mirror.verify"
        )
