"""The rules of the egress policy that are in force, as text for people: indexes of the core's verdicts lead here."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pasta_py.model import WorkerPlan


class RuleSet:
    """The rules of a start. `number` counts the sets of rules that there have been, from 1."""

    def __init__(self, plan: "WorkerPlan") -> None:
        self.number = 1
        self.texts = plan.egress_rules

    def rule(self, index: int) -> "tuple[str, str, str] | None":
        """Where a rule stands, the rule with its verdict, its note; None: there is no rule of this index."""
        if not 0 <= index < len(self.texts):
            return None
        where, text, note = self.texts[index].split("\t")
        return where, text, note
