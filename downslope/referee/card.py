"""The card of a built-in workload: what is known of it, as a literal that is read without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from downslope.referee.workload import Workload

__all__ = ["Card"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one built-in workload.

    Args:
        name: what `load_workload` and the command line call it.
        task: the kind of data, a colon, and what is learned, in one line.
        source: the data set: a key of `downslope.referee.data.packages.SOURCES`, or `""` where it is in this package.
        metric_name, goal, target, steps, evaluate_every, description, data, licence, target_origin: as in `Workload`.
        variants: what may follow `@` in the name: a line on what is different, and the keyword arguments of the file's
            function `workload` that make it so.
        module: where it was read from.
    """

    name: str
    task: str
    metric_name: str
    goal: Literal["min", "max"]
    target: float
    steps: int
    evaluate_every: int
    description: str
    data: str
    licence: str
    target_origin: str
    source: str = ""
    variants: Mapping[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    module: str = ""

    def workload(
        self,
        *,
        model: Callable[[], Any],
        train: Iterable[Any],
        validation: Iterable[Any],
        loss: Callable[[Any, Any], Any],
        metric: Callable[[Any, Iterable[Any]], float],
        stretch: int = 1,
    ) -> Workload:
        """The workload of this card, with what cannot stand in a literal.

        `stretch` is how many times as many steps there are, in all and between two evaluations.
        """
        from downslope.referee.workload import Workload

        return Workload(
            name=self.name,
            model=model,
            train=train,
            validation=validation,
            loss=loss,
            metric=metric,
            metric_name=self.metric_name,
            goal=self.goal,
            target=self.target,
            steps=self.steps * stretch,
            evaluate_every=self.evaluate_every * stretch,
            description=self.description,
            data=self.data,
            licence=self.licence,
            target_origin=self.target_origin,
        )
