"""What every candidate is shown, whatever its release says of itself: plain texts, and conversations.

A model that computes rightly finds them about as probable as the one that serves; one that is broken does not, and says
so whatever language model it is: probability is counted by bytes of text, so that tokenizers do not matter. The texts
are long enough to show what goes wrong at a distance (positions), and mixed enough to show what goes wrong with some
tokens only.
"""

STORY = (
    "The lighthouse at the end of the harbour was built two hundred years ago, when most of the town lived from"
    " fishing. Every evening the keeper climbed the narrow stairs, cleaned the glass, and lit the lamp. On clear"
    " nights the light could be seen from more than twenty miles away. When the fog came in, he rang a heavy bell"
    " instead, once every minute, until the morning. Today nobody lives in the tower any more. A small computer"
    " turns the lamp on and off, and sends a message to the office when something is wrong. Once a month a"
    " technician comes by boat to check the batteries and the solar panels. She likes the work, because the view is"
    " beautiful and the sea is never the same. Last winter a storm broke two windows and flooded the cellar, but"
    " the lamp did not go out. The people of the town were proud of their old lighthouse, and they collected money"
    " to repair it. In spring the windows were replaced, and the door was painted red, as it had been in the past."
    " Visitors can climb the stairs again on Sundays from ten in the morning until four in the afternoon. Children"
    " under six do not pay. The keeper's grandson tells the visitors how his grandfather lit the lamp, rang the"
    " bell, and waited for the ships to come home."
)
NOTE = (
    "To check the temperature of a cold room, follow these steps:\n1. Open the door and close it again quickly.\n"
    "2. Wait for five minutes.\n3. Read the display of the sensor. It should show a number between 2 and 5 degrees.\n"
    "4. If the number is higher than 5, call the technician.\n\nThe sensor sends its values as JSON, for example:\n"
    '{"sensor": "cold-room-1", "temperature": 3.5, "unit": "C", "door": "closed"}\n'
    '{"sensor": "cold-room-2", "temperature": 4.1, "unit": "C", "door": "closed"}\n'
    '{"sensor": "cold-room-3", "temperature": 9.8, "unit": "C", "door": "open"}\n\n'
    "def is_too_warm(values):\n    for value in values:\n        if value > 5:\n            return True\n"
    "    return False\n"
)
TEXTS = (STORY, NOTE)
CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("user", "What is the capital of France?"),
        ("assistant", "The capital of France is Paris."),
        ("user", "And how many days does a week have?"),
        ("assistant", "A week has seven days."),
        ("user", "Thank you!"),
        ("assistant", "You're welcome! Is there anything else I can help you with?"),
    ),
    (
        ("user", "Give me three examples of fruit."),
        ("assistant", "1. Apples\n2. Bananas\n3. Oranges"),
        ("user", "Write one sentence about the first one."),
        ("assistant", "Apples are sweet and crunchy, and they grow on trees."),
        ("user", "What colour is the sky on a clear day?"),
        ("assistant", "On a clear day, the sky is blue."),
    ),
)
# Answers to these are looked at for what no answer may be: empty, or one piece again and again.
QUESTIONS = (
    "What is the capital of France?",
    "Write a short story about a dog.",
    "Explain why it rains, in two sentences.",
    "Give me five tips for a good night's sleep.",
)
ANSWER_TOKENS = 32
DECODE_TOKENS = 24
