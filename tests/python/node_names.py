"""Node names as Celery's `-n` spells them, and file names with a node in them.

    node_names.py PATTERNS

`PATTERNS` is a JSON list. Prints for each the node name and `%n %h %d %p %i%I` of it, or null where Celery refuses.
"""

import json
import sys

from celery.utils.nodenames import default_nodename, host_format, node_format


def names(pattern):
    try:
        name = host_format(default_nodename(pattern))
    except ValueError:
        return None
    return [name, node_format("%n %h %d %p %i%I", name)]


print(json.dumps([names(pattern) for pattern in json.loads(sys.argv[1])]))
