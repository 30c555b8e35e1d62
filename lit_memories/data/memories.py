"""The queries of an image-level audit, each with its support images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset

from lit_memories.data.samples import Audit, ImageRows, Sample, count_cut, fill_up
from lit_memories.data.sources import Resize, Source
from lit_memories.records import Place, SetName


@dataclass
class Query:
    """An image of the concept, and the images by way of which memories of it are sought; one piece of work.

    Args:
        sample: the image.
        supports: the others.
    """

    sample: Sample
    supports: list[Sample]

    @property
    def work(self) -> tuple[str, ...]:
        """What tells it from other queries."""
        return (self.sample.content,)

    def named(self) -> dict[str, tuple[SetName, Sample | None]]:
        """Its records: what each is keyed by, its set, and the support it goes by."""
        content = self.sample.content
        records: dict[str, tuple[SetName, Sample | None]] = {f"{name}/{content}": (name, None) for name in _ALONE}
        return records | {f"memory/{content}/{support.content}": ("memory", support) for support in self.supports}

    def places(self) -> dict[str, Place]:
        """Where its records stand, by what each is keyed by."""
        return {
            name: Place(set_name, self.sample.index, None if support is None else support.index)
            for name, (set_name, support) in self.named().items()
        }


_ALONE: tuple[SetName, SetName] = ("own", "repeat")


class MemoryData(LightningDataModule):
    """The queries of an image-level audit: the first images of the concept, each with support images of its own.

    Query k goes by the supports from row `stride` times k on, officially ten of ten. Images that cannot be read, or
    stand there again, are passed over and not counted. A batch is one query.

    Args:
        query_images: images of the concept.
        support_images: images of other things.
        queries: how many of the former, officially 5.
        supports: how many of the latter a query, officially 10.
        stride: rows from one query's first support to the next one's; `supports` if None.
        resize: of images of another size, see `AuditData`.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(
        self,
        query_images: Source,
        support_images: Source,
        queries: int = 5,
        supports: int = 10,
        stride: int | None = None,
        resize: Resize = "crop",
    ) -> None:
        super().__init__()
        self.sources = query_images, support_images
        self.queries, self.supports, self.resize = queries, supports, resize
        self.stride = supports if stride is None else stride
        if min(queries, supports, self.stride) < 1:
            raise ValueError(
                f"queries ({queries}), supports ({supports}) and stride ({self.stride}) must be at least 1"
            )

    def setup(self, stage: str) -> None:
        """Read and check the sets, and leave out the queries that the run has recorded already.

        Raises:
            ValueError: if a set has too few images, or both share one.
        """
        trainer = cast("Trainer", self.trainer)
        audit = cast("Audit", trainer.lightning_module)
        query_rows, support_rows = (
            ImageRows("memory", source, audit.image_size, self.resize) for source in self.sources
        )
        needed = self.stride * (self.queries - 1) + self.supports
        for name, rows, count in (("query", query_rows, self.queries), ("support", support_rows, needed)):
            if len(rows.samples) < count:
                raise ValueError(
                    f"the {name} set has {len(rows.samples)} different images that can be read, {count} are needed: "
                    "give more, or lower data.queries or data.supports"
                )
        samples, supports = query_rows.samples[: self.queries], support_rows.samples[:needed]
        if shared := {s.picture for s in samples} & {s.picture for s in supports}:
            raise ValueError(f"queries and supports share {len(shared)} images: keep them apart")
        queries = [
            Query(sample, supports[k * self.stride : k * self.stride + self.supports])
            for k, sample in enumerate(samples)
        ]
        data: dict[str, Any] = {
            "memory": query_rows.describe(len(samples)),
            "supports": {**support_rows.describe(len(supports)), "each": self.supports},
        }
        count_cut(data, samples, audit.diffusion)
        ask = audit.open_run(data, {name: place for query in queries for name, place in query.places().items()})
        left = [query for query in queries if any(ask[name] for name in query.named())]
        self.rows = _Rows(fill_up(left, queries, trainer.world_size), query_rows, support_rows)

    def predict_dataloader(self) -> DataLoader[Query]:
        """The queries in order, without those recorded."""
        return DataLoader(self.rows, batch_size=None)


class _Rows(Dataset[Query]):
    """Queries with their images, decoded when asked for."""

    def __init__(self, queries: Sequence[Query], query_rows: ImageRows, support_rows: ImageRows) -> None:
        self.queries, self.query_rows, self.support_rows = queries, query_rows, support_rows

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, position: int) -> Query:
        query = self.queries[position]
        return Query(
            self.query_rows.with_pixels(query.sample), [self.support_rows.with_pixels(s) for s in query.supports]
        )
