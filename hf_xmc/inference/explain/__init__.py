"""Why a label was predicted: the words and training texts that support it."""
