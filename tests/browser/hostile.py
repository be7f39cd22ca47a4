"""Texts that would run in the browser of whoever reads them, if a page let them.

Each would open a dialog, set `window.planted` or leave an element with `data-planted`, depending on
where in a page it stands: between tags, in an attribute, an address, a script, a style or JSON.
"""

from __future__ import annotations

from typing import Final

BETWEEN_TAGS: Final = [
    "<script data-planted>alert(1)</script>",
    "<SCRIPT data-planted>alert(1)</SCRIPT>",
    "<script/data-planted>alert(1)</script>",
    "<script data-planted>window.planted=1</script >",
    "<scr<script data-planted>ipt>alert(1)</scr</script>ipt>",
    "<<script data-planted>alert(1);//<</script>",
    "<script data-planted src=data:,alert(1)></script>",
    "<img data-planted src=x onerror=alert(1)>",
    "<img data-planted src=x onerror='alert(1)'//",
    "<IMG DATA-PLANTED SRC=x ONERROR=alert(1)>",
    "<img/data-planted/src=x/onerror=alert(1)>",
    "<img data-planted src=x:alert(alt) onerror=eval(src) alt=1>",
    "<img data-planted src=x onerror=&#97;&#108;&#101;&#114;&#116;(1)>",
    "<img data-planted src=x onerror=\\u0061lert(1)>",
    "<image data-planted src=x onerror=alert(1)>",
    "<svg data-planted onload=alert(1)>",
    "<svg data-planted/onload=alert(1)//",
    "<svg data-planted><script>alert(1)</script></svg>",
    "<svg data-planted><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg data-planted><set onbegin=alert(1) attributename=x to=y>",
    "<math data-planted><mtext><img src onerror=alert(1)></mtext></math>",
    "<body data-planted onload=alert(1)>",
    "<iframe data-planted src=javascript:alert(1)></iframe>",
    "<iframe data-planted srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<object data-planted data=javascript:alert(1)></object>",
    "<embed data-planted src=javascript:alert(1)>",
    "<video data-planted><source onerror=alert(1)></video>",
    "<audio data-planted src onerror=alert(1)></audio>",
    "<input data-planted autofocus onfocus=alert(1)>",
    "<select data-planted autofocus onfocus=alert(1)></select>",
    "<details data-planted open ontoggle=alert(1)>x</details>",
    "<marquee data-planted onstart=alert(1)>x</marquee>",
    "<a data-planted href=javascript:alert(1) autofocus onfocus=alert(1)>x</a>",
    "<style data-planted>@keyframes x{}</style><b style=animation:x onanimationstart=alert(1)>",
    "<link data-planted rel=stylesheet href=data:,*{} onload=alert(1)>",
    "<meta data-planted http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<base data-planted href=javascript:alert(1)//>",
    "<form data-planted><button formaction=javascript:alert(1) autofocus onfocus=alert(1)>x",
    "<template data-planted shadowrootmode=open><img src=x onerror=alert(1)></template>",
]
OUT_OF_SOMETHING: Final = [
    '"><img data-planted src=x onerror=alert(1)>',
    "'><img data-planted src=x onerror=alert(1)>",
    '" autofocus onfocus=alert(1) data-planted x="',
    "' autofocus onfocus=alert(1) data-planted x='",
    "</title><script data-planted>alert(1)</script>",
    "</textarea><script data-planted>alert(1)</script>",
    "</pre></code><script data-planted>alert(1)</script>",
    "</script><script data-planted>alert(1)</script>",
    "--><script data-planted>alert(1)</script><!--",
    '"};alert(1);//',
    "https://x.example/\"onmouseover=alert(1)data-planted='<b>",
    "javascript:alert(1)//https://x.example",
    "{% load x %}{{ x|safe }}<b data-planted onpointerenter=alert(1)>",
]
PAYLOADS: Final = [*BETWEEN_TAGS, *OUT_OF_SOMETHING]

#: What there is in a page only where one of them has come through.
PLANTED = """() => [
  ...document.querySelectorAll("[data-planted]"),
  ...[...document.querySelectorAll("*")].filter(
    (element) => [...element.attributes].some(({ name }) => name.startsWith("on"))),
  ...document.querySelectorAll("a[href^='javascript:' i]"),
].map((element) => element.outerHTML).concat(window.planted ? ["window.planted"] : [])"""
