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
    " turns the lamp on and off, and sends a message to the office when something is wrong. The keeper's grandson"
    " tells the visitors how his grandfather lit the lamp, rang the bell, and waited for the ships to come home."
)
NOTE = (
    "To check the temperature of a cold room:\n1. Close the door and wait for five minutes.\n"
    "2. Read the display of the sensor. It should show a number between 2 and 5 degrees.\n\n"
    "The sensor sends its values as JSON, for example:\n"
    '{"sensor": "cold-room-1", "temperature": 3.5, "unit": "C", "door": "closed"}\n'
    '{"sensor": "cold-room-2", "temperature": 9.8, "unit": "C", "door": "open"}\n\n'
    "def is_too_warm(value):\n    return value > 5\n"
)
TEXTS = (STORY, NOTE)
CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("user", "What is the capital of France?"),
        ("assistant", "The capital of France is Paris."),
        ("user", "Thank you!"),
        ("assistant", "You're welcome! Is there anything else I can help you with?"),
    ),
    (
        ("user", "Give me three examples of fruit."),
        ("assistant", "1. Apples\n2. Bananas\n3. Oranges"),
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
OPENING_CHARS = 160  # of a text: so many tokens, at least
