"""From files to validated data sets and batches.

files, rows         text files and tables, line by line
spreadsheets        .xlsx, in and out
templates, reading  how the columns of a row make up a text
formats/            one reader per format
ingest/             queries, labels and splits: checked and written to Arrow files
dataset             the data set and how it is loaded
growing             an earlier label table, followed by new labels
parquet_folder      the folder that `hf-xmc prepare` writes
public_sets         what the public data sets declare
summary/            statistics, report and card
tokenized, collator from texts to batches of token ids
"""
