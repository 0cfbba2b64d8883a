# SPDX-License-Identifier: Apache-2.0
"""What the commands of `hakmem` share. Python 3.9 or later, and nothing but its standard library."""

# Exit statuses, as the man page has them. 2 is argparse's, for a wrong command line.
FAILED = 1
NOT_SERVED = 3
NO_PERMISSION = 4
NO_TARGET = 5


class Failure(Exception):
    """An error, as one line for the user, and its exit status."""

    def __init__(self, text, status=FAILED):
        super().__init__(text)
        self.status = status
