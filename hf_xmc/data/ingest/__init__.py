"""From the files of a source to a prepared data set: queries, labels, splits, the build."""
