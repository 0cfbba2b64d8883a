# SPDX-License-Identifier: Apache-2.0
# hakmem's commands in gdb: `hakmem stats`, `hakmem where ADDRESS`, by `source hakmem_gdb.py`, or as installed: there gdb
# reads it with the library, by its name in gdb's own folder. The commands are the tool's, which this looks for.
def _hakmem_load():
    import os
    import sys

    import gdb

    places = [os.environ.get('HAK_TOOL', ''), os.path.dirname(os.path.abspath(globals().get('__file__', '')))]
    for name in [o.filename for o in gdb.objfiles() if o.filename]:
        up = os.path.dirname(os.path.realpath(name))
        for _ in range(12):
            places += [up + '/share/hakmem', up + '/tools/hakmem']
            up = os.path.dirname(up)
    places += ['/usr/share/hakmem', '/usr/local/share/hakmem']
    for place in places:
        if os.path.exists(os.path.join(place, 'hakmemlib', 'in_gdb.py')):
            sys.path.insert(0, place)
            bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
            try:
                import hakmemlib.in_gdb  # noqa: F401
            finally:
                sys.dont_write_bytecode = bytecode
            return


_hakmem_load()
