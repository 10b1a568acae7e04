"""Joins with one token on two nodes at once: tokens.py TOKEN ADDRESS OTHER-ADDRESS
Checks that a token opens nothing: tokens.py refused TOKEN ADDRESS"""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import requests

requests.packages.urllib3.disable_warnings()


def headers(token):
    packed = token.removeprefix("PVEJOIN1-")
    fields = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    return {"Authorization": f"PVEJoinToken={fields['id']}:{fields['secret']}"}


def call(method, address, path, token, **data):
    url = f"https://{address}:8006/api2/json/cluster/{path}"
    return requests.request(
        method, url, headers=headers(token), data=data, verify=False, timeout=60
    ).status_code


if sys.argv[1] == "refused":
    assert call("GET", sys.argv[3], "config/join", sys.argv[2]) == 401
    sys.exit()

token, *addresses = sys.argv[1:]
assert call("GET", addresses[0], "config/join", token) == 200
# What a join needs to know is told, and nothing else.
assert call("GET", addresses[0], "status", token) == 200
assert call("GET", addresses[0], "options", token) == 403


def join(number):
    name = f"config/nodes/j{number}"
    address = addresses[number % len(addresses)]
    links = {f"link{link}": f"10.{77 + link}.0.{40 + number}" for link in range(2)}
    return call("POST", address, name, token, apiversion=1, **links)


with ThreadPoolExecutor(8) as pool:
    results = list(pool.map(join, range(8)))
assert results.count(200) == 1, results
assert set(results) == {200, 401}, results
joined = results.index(200)
assert call("DELETE", addresses[0], "config/nodes/n1", token) == 403
assert call("DELETE", addresses[0], f"config/nodes/j{joined}", token) == 200
