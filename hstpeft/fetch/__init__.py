"""Files from elsewhere: downloads whose content is checked, archives that stay in their folder."""

from hstpeft.fetch.archive import extract
from hstpeft.fetch.download import check_file_name, check_sha256, download, sha256_of

__all__ = ['check_file_name', 'check_sha256', 'download', 'extract', 'sha256_of']
