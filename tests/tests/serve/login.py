"""Logs in: login.py ADDRESS PASSWORD"""

import sys

from proxmoxer import ProxmoxAPI
from proxmoxer.core import AuthenticationError

address, password = sys.argv[1:]

try:
    ProxmoxAPI(address, user="root@pam", password="wrong-guess", verify_ssl=False, timeout=30)
    sys.exit("a wrong password was taken")
except AuthenticationError:
    pass

api = ProxmoxAPI(address, user="root@pam", password=password, verify_ssl=False, timeout=30)
assert api.cluster.config.apiversion.get() == 1
