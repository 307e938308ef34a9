"""From the streams of a source to a data set on disk: queries, labels, filter pairs and splits, each checked."""
