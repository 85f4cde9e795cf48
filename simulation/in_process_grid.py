"""A Flower Grid in this process: no SuperLink, no Ray, one resident model."""

import uuid
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# Flower's own code for an exception in a ClientApp.
_CLIENT_APP_RAISED = 2
_FIRST_NODE = 1000


class InProcessGrid(Grid):
    """Runs an ordinary ClientApp for every node, one after the other, when its reply is pulled.

    Replies are made lazily, so only one is alive at a time however many nodes there are.

    Args:
        client_app: the app that every node runs.
        node_count: number of nodes; node i gets ``partition-id`` i as in Flower's own simulation.
        run_config: Flower run configuration that the app sees.

    Example:
        >>> grid = InProcessGrid(client_app, node_count=5)                                     # doctest: +SKIP
        >>> strategy.start(grid, initial_arrays)     # any Flower strategy                     # doctest: +SKIP
    """

    def __init__(
        self, client_app: ClientApp, node_count: int, run_config: Mapping[str, str | int | float | bool] | None = None
    ) -> None:
        # Message() reads the identity of the process's task, which Flower's runtime would have set.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._app = client_app
        self._run = Run.create_empty(run_id=1)
        self._waiting: dict[str, Message] = {}
        self._contexts = {
            _FIRST_NODE + i: Context(
                run_id=1,
                node_id=_FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": node_count},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i in range(node_count)
        }

    def set_run(self, run: Run) -> None:
        """Set the run that the grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the grid belongs to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message (Flower's older way)."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; in one process they are always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages. The work is done when a reply is pulled."""
        identities = []
        for message in messages:
            identity = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = identity
            self._waiting[identity] = message
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the app for each of these messages and hand out the replies."""
        return [self._answer(self._waiting.pop(identity)) for identity in message_ids if identity in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and pull all replies. No deadline: nothing can go missing in one process."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            reply = self._app(message=message, context=self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            reply = Message(Error(code=_CLIENT_APP_RAISED, reason=type(error).__name__), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return reply
