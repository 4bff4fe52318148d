"""Reports: records as sentences, tables, pictures and pages; nothing here measures anything."""

from redoubtable.reports.adversarial import write_adversarial as write_adversarial
from redoubtable.reports.certificates import show_certificate as show_certificate
from redoubtable.reports.folder import write_report as write_report
from redoubtable.reports.html import write_page as write_page
from redoubtable.reports.record import read_record as read_record
from redoubtable.reports.reproduction import show_reproduction as show_reproduction
from redoubtable.reports.reproduction import write_reproduction as write_reproduction
from redoubtable.reports.terminal import show as show
from redoubtable.reports.verdict import verdict as verdict
