"""Why a label was predicted: the words that spoke for it."""
