"""What the budgets of a server allow."""

from tests.contract.world import Api


def test_the_budgets_are_listed_with_their_caps(api: Api):
    answer = api.client.get("/api/budgets")
    assert answer.status_code == 200
    budgets = {budget.pop("name"): budget for budget in answer.json()["budgets"]}
    assert list(budgets) == ["low", "standard", "high", "unlimited"]
    assert budgets["low"] == {"modelCalls": 4, "usd": 0.05, "seconds": 120}
    assert budgets["unlimited"]["usd"] is None


def test_the_budgets_are_those_of_this_server(narrow_api: Api):
    low = narrow_api.client.get("/api/budgets").json()["budgets"][0]
    assert low["modelCalls"] is None
    assert low["seconds"] == 2


def test_the_budgets_need_a_key(api: Api):
    answer = api.client.get("/api/budgets", headers={"Authorization": "Bearer hdg_live_x"})
    assert answer.status_code == 401
