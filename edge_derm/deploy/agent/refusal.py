"""The one exception of this half."""


class Refusal(Exception):
    """What this board cannot do; ``code`` and words for the other side."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code = code
