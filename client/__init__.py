"""Evenpost from Python: submit campaigns, watch them, steer them, read what became of each message.

from client import Campaign, Client

with Client() as client:
    receipt = client.submit(Campaign.load("campaign.toml"))
    print(client.wait(receipt.campaign).counts)
"""

from client.api import AsyncClient
from client.errors import ClientError
from client.input_campaign import Campaign
from client.problems import InputError, Problem
from client.submission_plan import Receipt
from client.sync_api import Client
from evenpost.wire.messages import (
    Attachment,
    Attempt,
    CampaignStatus,
    Candidate,
    Explanation,
    Pick,
    Reason,
    ReportRow,
    WatchUpdate,
    WorkerStatus,
)

__all__ = [
    "AsyncClient",
    "Attachment",
    "Attempt",
    "Campaign",
    "CampaignStatus",
    "Candidate",
    "Client",
    "ClientError",
    "Explanation",
    "InputError",
    "Pick",
    "Problem",
    "Reason",
    "Receipt",
    "ReportRow",
    "WatchUpdate",
    "WorkerStatus",
]
