"""Train with a causal language model in this process: any that transformers loads, by name or path.

In an empty folder: python local_model.py [MODEL]
"""

import sys

from ragself import Chunk, KnowledgeBase
from ragself.config import DEFAULT_GENERATOR

CITIES = ["Lisbon", "Oslo", "Vienna", "Prague", "Athens", "Dublin", "Bern", "Riga", "Turin", "Ghent"]
TOPICS = ["museums", "markets", "trams", "parks", "bakeries", "harbours", "bridges", "theatres", "libraries", "cafes"]


def chunks() -> list[Chunk]:
    """Chunks of a guide, one for each city and topic."""
    return [
        Chunk(
            id=f"{city}-{topic}",
            text=f"In {city} the {topic} are worth a whole morning. Most {topic} open at nine and are busiest at noon; "
            f"a day ticket of the city of {city} is valid for all of them.",
            metadata={"title": f"{topic} of {city}", "source": f"{city}.md"},
        )
        for city in CITIES
        for topic in TOPICS
    ]


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_GENERATOR
    with KnowledgeBase("local-kb") as kb:
        kb.add(chunks())
        queries = [f"when do the {topic} in {city} open" for city in CITIES for topic in TOPICS]
        report = kb.adapt(queries, generator=model)
        print(report.likelihood)
        print(report.decision, "-", report.reason)


if __name__ == "__main__":
    main()
