"""The JSON report of an audit as an HTML page and as SARIF; token colours for pages and terminals."""
