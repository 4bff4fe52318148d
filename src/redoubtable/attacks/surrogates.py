"""Surrogates by name: folders of saved models, opened by whoever may open them."""

from collections.abc import Callable, Sequence
from types import MappingProxyType

from torch import nn

from redoubtable.registry import Entry, Registry

Networks = Sequence[nn.Module]


class Folders(Registry[Networks]):
    """Reads `zoo/a;zoo/b` as the networks of two folders.

    Attacks stand beside the models and can't open one. What uses both says how, once:
    `SURROGATES.open = load_model`. A folder is opened once and then kept.

    Attributes:
        open: returns the network of a folder; None until somebody has said how.
    """

    def __init__(self) -> None:
        super().__init__("surrogate")
        self.open: Callable[[str], nn.Module] | None = None
        self._opened: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> Entry[Networks]:
        """Return the networks of folders, separated by semicolons.

        Raises:
            ValueError: nobody has said how a folder is opened.
        """
        folders = [f.strip() for f in name.split(";") if f.strip()]
        for folder in folders:
            if self.open is None:
                raise ValueError(
                    f"`surrogates` names the folder {folder!r} and nothing here can open it; give "
                    "networks, or set redoubtable.attacks.SURROGATES.open"
                )
            if folder not in self._opened:
                self._opened[folder] = self.open(folder)
        networks = tuple(self._opened[folder] for folder in folders)
        return Entry(";".join(folders), networks, MappingProxyType({}), "")

    def name_of(self, obj: object) -> str | None:
        """Return the folders that networks came from, or None if one was not opened here."""
        if not isinstance(obj, Sequence):
            return None
        names = [next((f for f, n in self._opened.items() if n is one), None) for one in obj]
        return None if None in names else ";".join(n for n in names if n is not None)


SURROGATES = Folders()
"""What `surrogates=` of an attack is read by."""
