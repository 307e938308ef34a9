"""What a data set looks like: its statistics, the HTML report and the card."""
