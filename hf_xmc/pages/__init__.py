"""What all HTML pages share: one layout, one stylesheet, one kind of chart."""
