"""`snnrun reproduce`: a table of a paper, trained here and set beside the published figures."""
