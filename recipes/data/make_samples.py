"""Write the samples that stand in for the data of four recipes: the same columns, a few rows, all of them invented.

    python recipes/data/make_samples.py

The rows are sentences with slots, filled in every combination; no row is taken from any dataset. The files are the same
each time, byte for byte. faq_sop.csv is written by hand.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

PRODUCTS = ("kettle", "desk lamp", "rain jacket", "bike helmet")
TICKETS = {
    "billing": (
        "I was charged twice for the {}.",
        "The invoice for my {} shows the wrong tax number.",
        "My voucher was not taken off the price of the {}.",
        "Can I pay for the {} in three instalments?",
        "The refund for the {} is not on my card yet.",
        "Why did the price of the {} go up after I paid?",
    ),
    "delivery": (
        "My {} should have come on Monday and is not here.",
        "The courier left the {} with a neighbour I do not know.",
        "Can you send the {} to my office instead?",
        "Tracking for the {} has not moved for a week.",
        "The parcel with the {} came open and wet.",
        "How many days does it take to ship a {} to Norway?",
    ),
    "returns": (
        "I would like to send the {} back, it is too small.",
        "Where do I print the label to return my {}?",
        "Can I swap the {} for another colour?",
        "I opened the box of the {}. May I still return it?",
        "You sent me a {} that I never ordered, take it back please.",
        "Until when can I give back the {} I got as a present?",
    ),
    "account": (
        "I cannot log in to see my order of the {}.",
        "Please change the email address of the account that bought the {}.",
        "Delete my account, I only made it to buy a {}.",
        "My password is refused when I want to review the {}.",
        "The {} is in my sister's order list and not in mine. Can you join our accounts?",
        "How do I stop the newsletter I get since I bought the {}?",
    ),
    "technical": (
        "The {} makes a loud clicking noise.",
        "A screw of the {} is missing and it wobbles.",
        "Which spare part fits the {} of last year?",
        "How do I clean the {} without breaking it?",
        "The {} stopped working after two days.",
        "There is a crack in the {}. Is it safe to use?",
    ),
}

ROOMS = ("Maple", "Birch", "Alder", "Rowan", "Hazel")
REQUESTS = (
    "Book {room} for {people} people on {day} at {time}.",
    "We are {people} and need {room} this {day}, {time} sharp.",
    "Is {room} free {day} at {time}? If so reserve it, {people} seats.",
    "{day} {time}: {room} please, {people} of us.",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")
# This gives 1600 rows: enough for the 100 warmup steps of the recipe, and its measurements of the loss every 200 steps.
ROWS_PER_COMBINATION = 20
TIMES = ("08:30", "10:00", "11:15", "13:45", "15:00", "16:30")

# Each scene has a topic, a dialogue, a summary, and the values of the slots {0} and {1}.
SCENES = (
    (
        "lost item",
        "#Person1#: Excuse me, I left my {0} on the {1}.\n#Person2#: When was that?\n"
        "#Person1#: An hour ago.\n#Person2#: Someone brought one in. Come with me.",
        "#Person1# lost a {0} on the {1}, and #Person2# may have it.",
        ("umbrella", "scarf", "camera", "notebook"),
        ("tram", "ferry"),
    ),
    (
        "restaurant",
        "#Person1#: A table for {1}, please.\n#Person2#: Inside or outside?\n"
        "#Person1#: Outside. And what is good today?\n#Person2#: The {0}. It is fresh.",
        "#Person1# asks for a table for {1} outside, and #Person2# recommends the {0}.",
        ("trout", "lentil soup", "mushroom pie", "lamb"),
        ("two", "five"),
    ),
    (
        "job",
        "#Person1#: Why do you want to work as a {0}?\n#Person2#: I did it for {1} years and miss it.\n"
        "#Person1#: Can you start in May?\n#Person2#: Yes, gladly.",
        "#Person2# was a {0} for {1} years and can start in May.",
        ("gardener", "baker", "welder", "tailor"),
        ("three", "seven"),
    ),
    (
        "doctor",
        "#Person1#: What is the matter?\n#Person2#: My {0} hurts since {1}.\n"
        "#Person1#: Did you fall?\n#Person2#: No.\n#Person1#: Rest it and come back in a week.",
        "#Person2#'s {0} hurts since {1}. #Person1# advises rest.",
        ("knee", "shoulder", "wrist", "back"),
        ("Sunday", "the match"),
    ),
    (
        "repair",
        "#Person1#: Can you mend this {0}?\n#Person2#: Yes. It will take {1} days.\n"
        "#Person1#: What does it cost?\n#Person2#: Forty crowns.\n#Person1#: All right.",
        "#Person2# will mend #Person1#'s {0} in {1} days for forty crowns.",
        ("clock", "bicycle", "guitar", "radio"),
        ("two", "four"),
    ),
    (
        "travel",
        "#Person1#: When does the next train to {0} leave?\n#Person2#: At {1}, from platform six.\n"
        "#Person1#: Do I have to change?\n#Person2#: No, it is direct.",
        "#Person1# learns that a direct train to {0} leaves at {1}.",
        ("Harwick", "Lindmouth", "Osterby", "Velden"),
        ("noon", "half past nine"),
    ),
    (
        "plans",
        "#Person1#: Shall we go to the {0} on {1}?\n#Person2#: I promised to help my aunt move.\n"
        "#Person1#: Then the week after?\n#Person2#: Perfect.",
        "#Person2# cannot go to the {0} on {1}, so they will go the week after.",
        ("museum", "lake", "concert", "market"),
        ("Friday", "Saturday"),
    ),
)
SPLITS = (("train", 40), ("validation", 8), ("test", 8))

PLURALS = {
    "leaf": "leaves", "mouse": "mice", "foot": "feet", "wolf": "wolves", "goose": "geese", "ox": "oxen",
    "shelf": "shelves", "tooth": "teeth", "child": "children", "half": "halves",
}  # fmt: skip
FUNCTIONS = {
    "len": ("returns how many items there are", "len('tea') is 3."),
    "sorted": ("returns a new list in order", "sorted([3, 1]) is [1, 3]."),
    "abs": ("returns the absolute value of a number", "abs(-4) is 4."),
    "max": ("returns the largest item", "max(2, 9) is 9."),
    "min": ("returns the smallest item", "min(2, 9) is 2."),
    "sum": ("adds up numbers", "sum([1, 2]) is 3."),
    "any": ("says whether some item is true", "any([False, True]) is True."),
    "all": ("says whether every item is true", "all([False, True]) is False."),
    "reversed": ("goes through items from the end", "list(reversed('ab')) is ['b', 'a']."),
    "round": ("rounds a number", "round(2.6) is 3."),
}
EVENTS = ("dinner", "hike", "workshop", "wedding", "picnic", "quiz night", "concert", "reunion", "bake sale", "tour")
MINUTES = {
    "German": ("Wie viele Minuten haben {} Stunden?", "{} Minuten.", "Danke!", "Gern geschehen."),
    "Spanish": ("¿Cuántos minutos hay en {} horas?", "{} minutos.", "¡Gracias!", "De nada."),
    "Portuguese": ("Quantos minutos há em {} horas?", "{} minutos.", "Obrigado!", "De nada."),
    "Chinese": ("{}小时有多少分钟？", "{}分钟。", "谢谢！", "不客气。"),
    "Russian": ("Сколько минут в {} часах?", "{} минут.", "Спасибо!", "Пожалуйста."),
}
MODELS = ("invented-7b", "invented-13b", "invented-chat")


def main() -> None:
    """Write the files."""
    tickets = [
        (issue.format(thing), name) for name, issues in TICKETS.items() for issue in issues for thing in PRODUCTS
    ]
    with (HERE / "ticket_classes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("question", "answer"), *shuffled(tickets)])
    write("input_output.jsonl", shuffled(bookings()))
    scenes = shuffled(dialogues())
    for name, count in SPLITS:
        part, scenes = scenes[:count], scenes[count:]
        numbered = [{"id": f"{name}_{number}", **row} for number, row in enumerate(part)]
        write(f"dialogsum_sample/{name}.jsonl", numbered)
    write("lmsys_sample.jsonl", shuffled(chats()))


def bookings() -> list[dict[str, str]]:
    """Return 1600 requests for a meeting room, each with the fields of its booking."""
    rows = []
    numbers, times = cycle(range(2, 13)), cycle(TIMES)
    for request, day, room, _ in product(REQUESTS, DAYS, ROOMS, range(ROWS_PER_COMBINATION)):
        people, time = next(numbers), next(times)
        asked = request.format(room=room, people=people, day=day, time=time)
        rows.append({"input": asked, "output": f"room={room}; people={people}; day={day[:3]}; time={time}"})
    return rows


def dialogues() -> list[dict[str, str]]:
    """Return 56 short dialogues with DialogSum's columns, without the id."""
    return [
        {"dialogue": dialogue.format(*slots), "summary": summary.format(*slots), "topic": topic}
        for topic, dialogue, summary, first, second in SCENES
        for slots in product(first, second)
    ]


def chats() -> list[dict[str, Any]]:
    """Return conversations with the columns of lmsys-chat-1m: 60 in English, 20 in five other languages."""
    conversations: list[tuple[str, tuple[str, ...]]] = []
    for number, (singular, plural) in enumerate(PLURALS.items(), start=2):
        minutes, grams = number * 60, number * 25
        conversations += [
            ("English", (f"What is the plural of {singular}?", f"The plural of {singular} is {plural}.")),
            ("English", (f"How many minutes are in {number} hours?", f"{minutes} minutes.",
                         "And how many seconds?", f"{minutes * 60} seconds.")),
            ("English", (f"Write {grams} g in kilograms.", f"{grams / 1000} kg.")),
        ]  # fmt: skip
    for name, (does, example) in FUNCTIONS.items():
        question = (f"What does {name} do in Python?", f"It {does}.", "Give me an example.", example)
        conversations.append(("English", (*question, "Thanks.", "You are welcome.")))
    for event in EVENTS:
        polite = f"Thank you for asking me to the {event}. Sadly I cannot come. I hope it goes well."
        asked = (f"Write a note that I cannot come to the {event}.", polite)
        conversations.append(("English", (*asked, "Shorter.", f"Sorry, I cannot make it to the {event}.")))
        conversations.append(
            ("English", (f"Suggest a title for a {event} invitation.", f"You are invited: our {event}!"))
        )
    for language, (question, answer, thanks, welcome) in MINUTES.items():
        conversations += [
            (language, (question.format(hours), answer.format(hours * 60), thanks, welcome)) for hours in (5, 6, 7, 8)
        ]
    models = cycle(MODELS)
    return [
        {
            "conversation_id": hashlib.sha256(texts[0].encode()).hexdigest()[:32],
            "model": next(models),
            "conversation": [
                {"content": text, "role": ("user", "assistant")[number % 2]} for number, text in enumerate(texts)
            ],
            "turn": len(texts) // 2,
            "language": language,
            "redacted": False,
        }
        for language, texts in conversations
    ]


def shuffled(rows: Sequence[Any]) -> list[Any]:
    """Return rows in an order that does not depend on how they were made, and is the same each time."""
    return sorted(rows, key=lambda row: hashlib.sha256(repr(row).encode()).digest())


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON, one object a line."""
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
