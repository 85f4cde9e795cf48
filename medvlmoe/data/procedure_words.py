"""Every word that an examination, a technique or a comparison may consist of; any other word may be a finding.

What was done, to which part, from where, when, and with which earlier pictures: a radiologist needs few words for that,
and countless ones for what is seen. So these are listed, and not those.
"""

import re

_WORDS = """
chest thorax thoracic rib ribs abdomen abdominal pelvis neck spine torso body kub sternum clavicle shoulder hemithorax
lung apices apical
radiograph radiographs radiography radiographic radiogram xray xrays ray rays cxr xr cr dx dr film films plain image
images imaging view views viewing projection projections picture pictures exposure exposures series scout fluoroscopy
ct cta cect ctpa mr mri mra pet scan scans tomography tomogram ultrasound us computed angiogram angiography
digital conventional standard routine dual energy subtraction contrast noncontrast enhanced unenhanced
pa ap lat lateral laterals frontal oblique obliques decubitus lordotic supine upright semi semiupright erect semierect
sitting standing seated recumbent posteroanterior anteroposterior postero antero posterior anterior
portable port bedside mobile inspiratory expiratory inspiration expiration tangential cross table crosstable rotated
unilat unilateral bilat bilateral bilaterally left right both
one two three four five six single double multiple several few pair additional another second third first further
line tube placement plcmt picc check pre post preop postop op trauma stat intraoperative
study studies exam exams examination examinations procedure comparison comparisons reference prior priors previous
previously earlier old older recent recently most more available unavailable none no not nil na made performed obtained
provided acquired submitted reviewed review taken done dated dating date dates time times timed day days week weeks
month months year years hour hours minute minutes today yesterday same ago am pm approximately
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december jan feb mar apr jun jul aug sep sept oct nov dec
outside hospital facility institution report reports record records system pacs electronic medical emergency department
ed icu unit room position positioning patient technique technologist
a an the of from for with without w wo and or to at on in by as is are was were be been has have which well including
include includes only also this that these those there through back since until between before after during via per
direct directly currently current time using use used it its other all any etc versus vs please see refer above
relevant pertinent
""".split()  # noqa: SIM905
_KNOWN = frozenset(_WORDS)
_WORD = re.compile(r"[^\W\d_]{2,}")  # single letters are initials of views and times: "5:30 p.m."


def first_unknown(text: str) -> int | None:
    """Where the first word starts that is not on the list; ``None`` if all are."""
    return next((word.start() for word in _WORD.finditer(text) if word[0].lower() not in _KNOWN), None)
