"""Ray Data as an execution engine: a pool of actors, each of which loads the model once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from detexport.execution.engine import Command, CommandResult, Resources
from detexport.execution.ray_engine import Needs, Ray, Setting, enter, portable, result_of, started
from detexport.system.extras import extra_imports

with extra_imports():
    import ray
    import ray.data
    from ray import cloudpickle

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayData:
    """An execution engine of Ray Data actors; a killed actor is restarted, and its item retried.

    Args:
        ray: the cluster; its ``retries`` are further tries of an item.
        workers: number of actors; None for as many as fit.
    """

    ray: Ray
    workers: int | None = None

    def map(
        self, start: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, gpus: int = 0
    ) -> Iterator[Result]:
        """Yield the result of each item; see ``Execution.map``.

        An item that ran twice, because its actor was killed, yields one result.
        """
        if not items:
            return
        self.ray.connect()
        setting = Setting.of_this_process()
        needs = Needs.of_a_worker(setting, gpus)
        room = min(needs.room(), self.workers or len(items), len(items))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        rows = [{"item": cloudpickle.dumps(item)} for item in items]
        actor: Any = _Actor  # Ray's annotation lacks classes
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            actor,
            fn_constructor_args=[cloudpickle.dumps(start), setting],
            compute=ray.data.ActorPoolStrategy(size=room),
            max_task_retries=self.ray.retries,  # Ray's own default is without an end
            **needs.options(),
        )
        found = iter(results.iter_rows())
        while row := result_of(partial(next, found, None)):
            result, error = cloudpickle.loads(row["result"])
            if error is not None:
                raise error
            yield result

    def run(self, command: Command, resources: Resources) -> CommandResult:
        """Run a command as a task; see ``Execution.run``."""
        return self.ray.run(command, resources)

    def stop(self) -> None:
        """Disconnect from Ray."""
        self.ray.stop()


class _Actor:
    """Holds the function that is applied to the items.

    Args:
        payload: the pickled ``start`` of ``map``.
        setting: of the process that submitted the items.
    """

    def __init__(self, payload: bytes, setting: Setting) -> None:
        self._call: Callable[[Any], Any] | None = None
        self._error: Exception | None = None
        try:
            enter(setting)
            self._call = started(payload)()
        except Exception as error:  # Ray would start the actor again
            self._error = portable(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        """Return the pickled result of an item, or its exception."""
        if self._call is None:
            return {"result": cloudpickle.dumps((None, self._error))}
        try:
            return {"result": cloudpickle.dumps((self._call(cloudpickle.loads(row["item"])), None))}
        except Exception as error:
            return {"result": cloudpickle.dumps((None, portable(error)))}
