"""Add documents, search, train on user queries, search again, roll back.

In an empty folder: python quickstart.py
"""

from ragself import Chunk, KnowledgeBase

FRUIT = ["apple", "pear", "plum", "cherry", "grape", "fig", "melon", "peach", "lemon", "quince"]
DISHES = ["cake", "jam", "salad", "juice", "pie", "soup", "tart", "sorbet", "chutney", "compote", "crumble", "syrup"]


def chunks() -> list[Chunk]:
    """One recipe for each fruit and dish; `title` and `source` are the two metadata keys that ragself uses."""
    return [
        Chunk(
            id=f"{fruit}-{dish}",
            text=f"Wash and cut the {fruit}. Cook it slowly with sugar until the {dish} is ready, then let it rest.",
            metadata={"title": f"{fruit} {dish}", "source": f"{fruit}.md"},
        )
        for fruit in FRUIT
        for dish in DISHES
    ]


def main() -> None:
    with KnowledgeBase("quickstart-kb") as kb:
        print(kb.add(chunks()))  # adding the same chunks again changes nothing

        for hit in kb.search("what can I make of a quince", k=3):
            print(f"{hit.score:.3f}  {hit.id}  (version {hit.version})")

        queries = [f"how do I make {dish} from {fruit}" for fruit in FRUIT for dish in DISHES]
        report = kb.adapt(queries, progress=lambda stage, done, total: None)
        print(report.decision, "-", report.reason)

        only_figs = kb.search("something sweet", k=3, where={"source": "fig.md"})
        print([hit.id for hit in only_figs])

        if report.decision == "promote":
            print("back at version", kb.rollback().number)


if __name__ == "__main__":
    main()
