"""A licence in the words of the Hub, which refuses a card with an identifier that it does not know."""

import re

KNOWN = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1
lgpl-3.0 lgpl-lr mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail osl-3.0 other pddl unknown unlicense wtfpl zlib
"""
"""Identifiers of data and code (https://huggingface.co/docs/hub/repositories-licenses), without those of single models."""

SHORT = {"cc0": "cc0-1.0"}


def license_metadata(license: str) -> dict[str, str]:
    """Return what a card says of a licence.

    Returns:
        `{"license": identifier}`, so `cc-by-sa-4.0` of `CC BY-SA 4.0`. Of one that the Hub does not know, or of several in
        one text, `{"license": "other", "license_name": ...}`.
    """
    spelled = "-".join(license.lower().split())
    spelled = SHORT.get(spelled, spelled)
    if spelled in KNOWN.split():
        return {"license": spelled}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", spelled).strip("-.")}
