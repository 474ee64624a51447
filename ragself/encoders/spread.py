"""Spread of an encoder's cosines: the unit in which lexical scores are added to them.

Encoders differ: the cosines of all-MiniLM-L6-v2 lie between 0 and .7, those of E5 between .7 and 1. The spread is
measured on a few general texts, which are the same for every corpus. It depends on the encoder only, so scores stay
comparable when documents are added or deleted.
"""

from __future__ import annotations

import numpy as np

from ragself.encoders.vectors import BaseVectors

REFERENCE = 0.1308  # spread of all-MiniLM-L6-v2 on these texts

DOCUMENTS = (
    "The council approved the new budget for roads and schools after a long debate on Tuesday.",
    "Water boils at a lower temperature on high mountains because the pressure of the air is lower there.",
    "To install the printer, connect the cable, switch it on and follow the steps on the screen.",
    "The striker scored twice in the second half, and the home team won the match by three goals to one.",
    "Patients with high blood pressure should reduce salt and exercise for half an hour a day.",
    "Melt the butter in a pan, add the onions and cook them until they are soft and golden.",
    "The contract may be ended by either party with a notice period of three months.",
    "A binary search halves the interval in every step, so that it needs logarithmic time.",
    "The museum shows paintings of the seventeenth century from Holland and Flanders.",
    "Shares of the car maker fell by six percent after it lowered its forecast for the year.",
    "Bees find their way back to the hive by the position of the sun and by landmarks.",
    "Passengers should be at the gate forty minutes before the departure of the flight.",
    "The function returns an error when the file cannot be opened or the disk is full.",
    "In spring the river floods the meadows, and storks feed on frogs in the shallow water.",
    "The defendant was sentenced to two years in prison for fraud and forgery of documents.",
    "Interest on the loan is due at the end of each quarter and is calculated on the balance.",
    "The telescope has found a planet that orbits a small red star forty light years away.",
    "Check the oil level every month, and replace the filter after ten thousand kilometres.",
    "The novel tells the story of a family that leaves its village during the war.",
    "Antibiotics do not help against viruses; they act on bacteria only.",
    "Employees may take up to five days of unpaid leave when a child is ill.",
    "The concert opens with a string quartet by Haydn and ends with dances from Hungary.",
    "Wheat and barley were first grown in the hills around the Euphrates and the Tigris.",
    "Encrypt the backup with a password, and keep a copy of it at another place.",
)
QUERIES = (
    "how does altitude change the boiling point",
    "printer setup instructions",
    "who won the football game",
    "what to do about hypertension",
    "how to fry onions",
    "terminate an agreement",
    "complexity of binary search",
    "dutch masters exhibition",
    "car company stock price drop",
    "navigation of insects",
    "when to arrive at the airport",
    "cannot open file error",
    "birds in wetlands",
    "punishment for fraud",
    "when must interest be paid",
    "exoplanet discovery",
)


def spread(base: BaseVectors) -> float:
    """Mean standard deviation of a query's cosines over `DOCUMENTS`."""
    cosines = base.queries(QUERIES) @ base.documents(DOCUMENTS).T
    return float(np.std(cosines, axis=1).mean())


def unit(base: BaseVectors) -> float:
    """Spread relative to that of all-MiniLM-L6-v2. The texts are encoded once and then come from the cache."""
    return spread(base) / REFERENCE
