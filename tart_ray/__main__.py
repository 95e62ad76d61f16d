"""`python -m tart_ray <job>`: the command `tart-ray`, of this interpreter."""

import sys

from tart_ray.jobs_command import main

if __name__ == "__main__":
    sys.exit(main())
